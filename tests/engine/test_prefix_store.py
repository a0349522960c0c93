from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edgeapp.engine.prefix_store import PrefixStore, SavedSequence

CAPACITY_BYTES = 100

_tokens = st.lists(st.integers(min_value=0, max_value=2), max_size=10)
_keys = st.sampled_from(["", "adapter"])


def saved(
    tokens: list[int], *, key: str = "", n_data_bytes: int = 0, n_least: int = 0, rendered: bytes = b""
) -> SavedSequence:
    return SavedSequence(
        key=key, tokens=tuple(tokens), rendered=rendered, data=bytes(n_data_bytes), n_least=n_least
    )


def n_shared(ours: tuple[int, ...], theirs: list[int]) -> int:
    """Count one by one."""
    shared = 0
    while shared < min(len(ours), len(theirs)) and ours[shared] == theirs[shared]:
        shared += 1
    return shared


_entries = st.builds(
    lambda tokens, key, least: saved(tokens, key=key, n_least=min(least, len(tokens))),
    _tokens,
    _keys,
    st.integers(min_value=0, max_value=10),
)


@given(entries=st.lists(_entries, max_size=12), key=_keys, tokens=_tokens, whole=st.booleans())
def test_longest_is_the_longest_usable_beginning(
    entries: list[SavedSequence], key: str, tokens: list[int], *, whole: bool
) -> None:
    store = PrefixStore(10**6)
    for entry in entries:
        store.put(entry)
    usable = [
        shared
        for entry in store.entries(key)
        if (shared := n_shared(entry.tokens, tokens)) >= (len(entry.tokens) if whole else entry.n_least)
    ]
    found = store.longest(key, tokens, whole=whole)
    assert (found[1] if found else 0) == max(usable, default=0)
    if found:
        assert found[0].key == key
        assert n_shared(found[0].tokens, tokens) == found[1]


@given(
    n_shared=st.integers(min_value=1, max_value=200),
    n_more=st.integers(min_value=0, max_value=200),
    n_asked=st.integers(min_value=0, max_value=200),
)
def test_the_common_beginning_is_counted_to_the_token(n_shared: int, n_more: int, n_asked: int) -> None:
    store = PrefixStore(10**6)
    entry = saved([7] * n_shared + [1] * n_more)
    store.put(entry)
    assert store.longest("", [7] * n_shared + [2] * n_asked) == (entry, n_shared)


@given(st.lists(_entries, max_size=12))
def test_what_was_put_can_be_had_again(entries: list[SavedSequence]) -> None:
    store = PrefixStore(10**6)
    for entry in entries:
        assert store.put(entry)
        if entry.tokens:
            found = store.longest(entry.key, entry.tokens)
            assert found is not None
            assert found[1] == len(entry.tokens)


class Store(RuleBasedStateMachine):
    """Against a plain list, the least recently used first."""

    @initialize()
    def begin(self) -> None:
        self.store = PrefixStore(CAPACITY_BYTES)
        self.known: list[SavedSequence] = []

    @rule(entry=_entries, n_data_bytes=st.integers(min_value=0, max_value=CAPACITY_BYTES + 1))
    def put(self, entry: SavedSequence, n_data_bytes: int) -> None:
        entry = saved(list(entry.tokens), key=entry.key, n_least=entry.n_least, n_data_bytes=n_data_bytes)
        fits = entry.n_bytes <= CAPACITY_BYTES
        assert self.store.put(entry) == fits
        if fits:
            self.known = [old for old in self.known if not _covers(entry, old)]
            self.known.append(entry)
            while sum(old.n_bytes for old in self.known) > CAPACITY_BYTES:
                del self.known[0]

    @rule(index=st.integers(min_value=0))
    def touch(self, index: int) -> None:
        if self.known:
            entry = self.known.pop(index % len(self.known))
            self.known.append(entry)
            self.store.touch(entry)

    @rule(index=st.integers(min_value=0))
    def take(self, index: int) -> None:
        if self.known:
            entry = self.known.pop(index % len(self.known))
            assert self.store.take(entry) is entry

    @rule(tokens=_tokens, key=_keys)
    def look(self, tokens: list[int], key: str) -> None:
        """Looking changes nothing."""
        self.store.longest(key, tokens)

    @invariant()
    def it_holds_what_it_should(self) -> None:
        for key in ("", "adapter"):
            assert self.store.entries(key) == [entry for entry in self.known if entry.key == key]
        assert len(self.store) == len(self.known)

    @invariant()
    def it_never_exceeds_its_capacity(self) -> None:
        assert self.store.n_bytes == sum(entry.n_bytes for entry in self.known) <= CAPACITY_BYTES


def _covers(new: SavedSequence, old: SavedSequence) -> bool:
    is_beginning = new.tokens[: len(old.tokens)] == old.tokens
    can_be_cut = new.n_least <= len(old.tokens) or len(new.tokens) == len(old.tokens)
    return new.key == old.key and is_beginning and can_be_cut


TestStore = Store.TestCase
TestStore.settings = settings(max_examples=40, deadline=None)


def test_the_least_recently_used_leaves_first() -> None:
    store = PrefixStore(3 * 14)
    first, second, third, fourth = (saved([n], n_data_bytes=10) for n in range(4))
    for entry in (first, second, third):
        store.put(entry)
    store.touch(first)
    store.put(fourth)
    assert store.entries("") == [third, first, fourth]


def test_an_entry_larger_than_the_store_is_refused_and_nothing_leaves() -> None:
    store = PrefixStore(20)
    kept = saved([1], n_data_bytes=16)
    assert store.put(kept)
    assert not store.put(saved([1], n_data_bytes=17))
    assert not store.put(saved([1], rendered=bytes(17)))
    assert store.entries("") == [kept]


def test_a_store_without_room_keeps_nothing() -> None:
    store = PrefixStore(0)
    assert not store.put(saved([1]))
    assert store.longest("", [1]) is None


def test_a_longer_entry_replaces_its_beginning_only_when_it_can_be_cut_to_it() -> None:
    store = PrefixStore(10**6)
    beginning = saved([1, 2])
    store.put(beginning)
    store.put(saved([1, 2, 3], n_least=3))
    assert store.longest("", [1, 2, 9]) == (beginning, 2)
    longer = saved([1, 2, 3, 4], n_least=2)
    store.put(longer)
    assert store.entries("") == [longer]


def test_the_newest_of_equally_long_beginnings_is_chosen() -> None:
    store = PrefixStore(10**6)
    store.put(saved([1, 2, 3]))
    newest = saved([1, 2, 4])
    store.put(newest)
    assert store.longest("", [1, 2, 5]) == (newest, 2)


def test_a_cleared_store_is_empty() -> None:
    store = PrefixStore(10**6)
    store.put(saved([1, 2, 3]))
    store.clear()
    assert (len(store), store.n_bytes, store.longest("", [1])) == (0, 0, None)

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgeapp.engine.prefix import Prefix

_tokens = st.lists(st.integers(min_value=0, max_value=3), max_size=12)


def _prefix(tokens: list[int], rendered: bytes = b"text") -> Prefix:
    prefix = Prefix()
    prefix.tokens.extend(tokens)
    prefix.rendered = rendered
    return prefix


@given(_tokens, _tokens)
def test_common_is_the_longest_shared_beginning(known: list[int], wanted: list[int]) -> None:
    shared = _prefix(known).common(wanted)
    assert known[:shared] == wanted[:shared]
    assert shared in (len(known), len(wanted)) or known[shared] != wanted[shared]


def test_truncating_forgets_the_text_that_no_longer_matches() -> None:
    prefix = _prefix([1, 2, 3])
    prefix.truncate(2)
    assert (prefix.tokens, prefix.rendered) == ([1, 2], b"")


def test_truncating_to_the_full_length_keeps_the_text() -> None:
    prefix = _prefix([1, 2, 3])
    prefix.truncate(3)
    assert (prefix.tokens, prefix.rendered) == ([1, 2, 3], b"text")


def test_the_rest_of_a_prompt_is_what_follows_the_known_text() -> None:
    assert _prefix([1], "known 👩".encode()).rest_of("known 👩 and new") == " and new"
    assert _prefix([1], b"known").rest_of("unknown") is None
    assert Prefix().rest_of("anything") is None


def test_a_prefix_that_ends_inside_a_character_has_no_rest() -> None:
    assert _prefix([1], "é".encode()[:1]).rest_of("é") is None

"""Keep conversations that had to leave the KV cache in host memory.

Pure: knows tokens and bytes, no llama.cpp, no file and no clock.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TOKEN_BYTES = 4


def pack(tokens: Sequence[int]) -> bytes:
    """Return the tokens as int32, which compare a thousand times faster than a list."""
    return array("i", tokens).tobytes()


@dataclass(frozen=True, kw_only=True, eq=False)
class SavedSequence:
    """A sequence's state, and what it is the state of."""

    key: str
    """What else the state depends on, such as the adapters in use. Only equal keys are compared."""
    tokens: tuple[int, ...]
    rendered: bytes
    """The text that the tokens spell, for whoever continues it; empty when it is not known."""
    data: bytes | bytearray
    n_least: int = 0
    """Fewest tokens to which the state can be cut once it is back; `len(tokens)` for a recurrent model."""

    @cached_property
    def packed(self) -> bytes:
        return pack(self.tokens)

    @property
    def n_bytes(self) -> int:
        return len(self.data) + len(self.rendered) + TOKEN_BYTES * len(self.tokens)


class PrefixStore:
    """A map of saved sequences that forgets the least recently used ones to stay under its capacity."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.n_bytes = 0
        self._entries: OrderedDict[tuple[str, bytes], SavedSequence] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[SavedSequence]:
        return iter(self._entries.values())

    def put(self, entry: SavedSequence) -> bool:
        """Keep `entry` as the most recently used; False when it is larger than the capacity.

        Forgets what `entry` can stand in for: the same tokens, or a beginning to which it can be cut.
        """
        if entry.n_bytes > self.capacity_bytes:
            return False
        for old in [old for old in self._entries.values() if _stands_in_for(entry, old)]:
            self.take(old)
        self._entries[entry.key, entry.packed] = entry
        self.n_bytes += entry.n_bytes
        while self.n_bytes > self.capacity_bytes:
            self.take(next(iter(self._entries.values())))
        return True

    def entries(self, key: str) -> list[SavedSequence]:
        """Return the entries with this key, the least recently used first."""
        return [entry for entry in self._entries.values() if entry.key == key]

    def longest(
        self, key: str, tokens: Sequence[int], *, whole: bool = False
    ) -> tuple[SavedSequence, int] | None:
        """Return the entry that shares the most leading tokens, and how many; the newest among equals.

        Entries that cannot be cut to what they share do not count; with `whole` none can be cut.
        """
        wanted, best, n_best = memoryview(pack(tokens)), None, 0
        for entry in reversed(self._entries.values()):
            needed = max(n_best + 1, len(entry.tokens) if whole else entry.n_least)
            if entry.key != key or needed > len(tokens):
                continue
            # One token rules out nearly all, one comparison in C the rest.
            ours = entry.packed
            if _agree(ours, wanted, needed - 1, needed) and _agree(ours, wanted, 0, needed):
                best, n_best = entry, _n_common(ours, wanted, n_known=needed)
        return None if best is None else (best, n_best)

    def touch(self, entry: SavedSequence) -> None:
        """Make `entry` the most recently used."""
        self._entries.move_to_end((entry.key, entry.packed))

    def take(self, entry: SavedSequence) -> SavedSequence:
        """Remove `entry`, which is going back into the KV cache, and return it."""
        entry = self._entries.pop((entry.key, entry.packed))
        self.n_bytes -= entry.n_bytes
        return entry

    def clear(self) -> None:
        self._entries.clear()
        self.n_bytes = 0


def _stands_in_for(new: SavedSequence, old: SavedSequence) -> bool:
    if new.key != old.key or not new.packed.startswith(old.packed):
        return False
    return len(new.tokens) == len(old.tokens) or new.n_least <= len(old.tokens)


def _n_common(ours: bytes, theirs: memoryview, *, n_known: int) -> int:
    """Return how many leading tokens agree, by bisection; the first `n_known` are known to."""
    low, high = n_known, min(len(ours), len(theirs)) // TOKEN_BYTES
    while low < high:
        middle = (low + high + 1) // 2
        if _agree(ours, theirs, low, middle):
            low = middle
        else:
            high = middle - 1
    return low


def _agree(ours: bytes, theirs: memoryview, start: int, end: int) -> bool:
    """Compare the tokens from `start` up to `end`, without a copy."""
    return ours.startswith(theirs[start * TOKEN_BYTES : end * TOKEN_BYTES], start * TOKEN_BYTES)

"""Conversations outside the KV cache: those that had to leave it, and those that an earlier worker left.

One place to look for both. Pure: knows no llama.cpp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgeapp.engine.park import ParkedConversations
    from edgeapp.engine.prefix_store import PrefixStore, SavedSequence


class SavedConversations:
    """`parked` is None where no earlier worker left anything."""

    def __init__(self, store: PrefixStore, parked: ParkedConversations | None) -> None:
        self._store = store
        self._parked = parked

    def __iter__(self) -> Iterator[SavedSequence]:
        """Yield all; `is_true` tells whether to believe one."""
        yield from self._store
        yield from self._parked or ()

    def is_true(self, entry: SavedSequence) -> bool:
        """Tell whether `entry` is what it says; one that is not is forgotten."""
        return self._parked is None or self._parked.verified(entry) is not None

    def put(self, entry: SavedSequence) -> None:
        """Keep `entry`, as long as there is room."""
        self._store.put(entry)

    @property
    def has_room(self) -> bool:
        """Whether anything can be kept at all."""
        return self._store.capacity_bytes > 0

    def take(self, key: str, tokens: Sequence[int], *, n_known: int) -> SavedSequence | None:
        """Take out the one that shares the most leading tokens, if more than `n_known`."""
        stored = self._store.longest(key, tokens)
        n_stored = stored[1] if stored else 0
        if self._parked is not None:
            parked = self._parked.claim(key, tokens, n_known=max(n_known, n_stored))
            if parked is not None:
                return parked
        return self._store.take(stored[0]) if stored and n_stored > n_known else None

    def handed_over(self) -> Iterator[SavedSequence]:
        """Yield all for the next worker, the least recently used first."""
        if self._parked is not None:
            yield from self._parked.remaining()
        yield from self._store

    def clear(self) -> tuple[int, int]:
        """Forget all; return how many there were, and the host memory they held in bytes."""
        n_dropped, n_bytes = len(self._store), self._store.n_bytes
        self._store.clear()
        if self._parked is not None:
            n_dropped += len(self._parked)
            n_bytes += self._parked.clear()
        return n_dropped, n_bytes

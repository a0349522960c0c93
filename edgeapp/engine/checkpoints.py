"""Remember states along a text, for models that cannot forget a part of it.

A recurrent model's state stands for the whole text. To go back, an older state is restored and what follows
it is computed again. Pure: knows lengths and bytes, no llama.cpp.
"""

from __future__ import annotations

import itertools

MAX_COUNT = 8
MAX_BYTES = 512 << 20
"""Most bytes of one sequence's checkpoints. Without the attention layers a state is between 0.1 MiB (small
hybrids) and a few hundred MiB (the largest recurrent models)."""


class Checkpoints:
    """The checkpoints of one sequence, at most `max_count` and `max_bytes` of them.

    When there are too many, the one goes that lies closest behind another: without it the fewest tokens have
    to be computed again. The newest stays.
    """

    def __init__(self, *, max_count: int = MAX_COUNT, max_bytes: int = MAX_BYTES) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._states: dict[int, bytes | bytearray] = {}

    @property
    def lengths(self) -> tuple[int, ...]:
        """How many tokens each state stands for, the shortest first."""
        return tuple(sorted(self._states))

    @property
    def n_bytes(self) -> int:
        return sum(map(len, self._states.values()))

    def add(self, n_tokens: int, data: bytes | bytearray) -> bool:
        """Keep the state after `n_tokens` tokens; False when it alone is too large.

        What lies behind it belonged to a text that went on differently.
        """
        self.truncate(n_tokens - 1)
        if len(data) > self._max_bytes:
            return False
        self._states[n_tokens] = data
        while len(self._states) > self._max_count or self.n_bytes > self._max_bytes:
            del self._states[self._least_missed()]
        return True

    def best(self, n_keep: int) -> tuple[int, bytes | bytearray] | None:
        """Return the longest state of at most `n_keep` tokens, and of how many."""
        n_tokens = max((n for n in self._states if n <= n_keep), default=None)
        return None if n_tokens is None else (n_tokens, self._states[n_tokens])

    def truncate(self, n_keep: int) -> None:
        """Forget what lies behind `n_keep` tokens: the sequence goes on differently from there."""
        for n_tokens in [n for n in self._states if n > n_keep]:
            del self._states[n_tokens]

    def clear(self) -> None:
        self._states.clear()

    def _least_missed(self) -> int:
        """Return the length of the state that follows another most closely, the last one excepted."""
        lengths = (0, *self.lengths)
        return min((after - before, after) for before, after in itertools.pairwise(lengths[:-1]))[1]

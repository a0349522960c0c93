"""How large a slice of prompts one step may take while answers are being decoded. Pure arithmetic."""

from __future__ import annotations

SLICE_S = 0.5
"""An answer in progress waits about this long for its next token while somebody's prompt is read."""
MIN_SLICE = 16
_MIN_TOKENS = 16
"""A decode of fewer tokens says nothing about the speed of reading."""
_WEIGHT = 0.3


class Pace:
    """Learns the time that one prompt token takes."""

    def __init__(self) -> None:
        self._token_s = 0.0

    def observe(self, *, n_tokens: int, step_s: float) -> None:
        """Note that a decode of `n_tokens` took `step_s`."""
        if n_tokens < _MIN_TOKENS:
            return
        token_s = step_s / n_tokens
        self._token_s += (token_s - self._token_s) * (_WEIGHT if self._token_s else 1.0)

    def slice_tokens(self) -> int:
        """Return how many prompt tokens fit into `SLICE_S`; `MIN_SLICE` while nothing is known."""
        return max(MIN_SLICE, int(SLICE_S / self._token_s)) if self._token_s else MIN_SLICE

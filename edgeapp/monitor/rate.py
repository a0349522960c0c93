"""Tokens per second while an answer is written. Pure."""

from __future__ import annotations


class LiveRate:
    """Turns token counts into a rate, at most one for every `interval_s`."""

    def __init__(self, *, interval_s: float) -> None:
        self._interval_s = interval_s
        self._from: tuple[int, float] | None = None

    def observe(self, *, n_tokens: int, now_s: float) -> float | None:
        """Return the rate since the last one; None until enough time has passed or when counting restarts."""
        if self._from is None or n_tokens < self._from[0]:
            self._from = n_tokens, now_s
            return None
        n_before, before_s = self._from
        if now_s - before_s < self._interval_s:
            return None
        self._from = n_tokens, now_s
        return (n_tokens - n_before) / (now_s - before_s)

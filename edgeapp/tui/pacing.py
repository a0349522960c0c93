"""Turn a fast stream of pieces into few writes, and token counts into a rate. Knows no widget.

Showing every token on its own takes most of a core at 200 tokens a second, which the decoding model
needs; ten writes a second look as fluent.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class PacedText:
    """Collects text and writes it at most once per `interval_s`; `finish` always writes the rest."""

    def __init__(self, write: Callable[[str], None], *, interval_s: float) -> None:
        self._write = write
        self._interval_s = interval_s
        self._pending: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        self._written_s = -interval_s

    def feed(self, text: str) -> None:
        self._pending.append(text)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(loop.time(), self._written_s + self._interval_s), self._flush)

    def finish(self) -> None:
        """Write what is left."""
        if self._timer is not None:
            self._timer.cancel()
            self._flush()

    def _flush(self) -> None:
        self._timer = None
        self._written_s = asyncio.get_running_loop().time()
        text = "".join(self._pending)
        self._pending.clear()
        self._write(text)


class DecodeRate:
    """Tokens per second since the first token of an answer, from times that the caller measured."""

    def __init__(self, *, interval_s: float) -> None:
        self._interval_s = interval_s
        self._first: tuple[int, float] | None = None
        self._reported_s = 0.0

    def observe(self, *, n_tokens: int, now_s: float) -> float | None:
        """Return the rate so far, but no more often than every `interval_s`, else None."""
        if self._first is None:
            self._first = (n_tokens, now_s)
            self._reported_s = now_s
            return None
        if now_s - self._reported_s < self._interval_s:
            return None
        self._reported_s = now_s
        first_tokens, first_s = self._first
        return (n_tokens - first_tokens) / (now_s - first_s)

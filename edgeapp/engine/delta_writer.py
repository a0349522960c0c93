"""Turn parts of an answer into events, few enough not to disturb whoever computes. Knows no model."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from edgeapp.engine.answer_stream import Part, TextPart, ToolCallPart
from edgeapp.protocol import Channel, Delta, Event, TokenLogprob, ToolCallDelta

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DELTA_INTERVAL_S = 1 / 15
"""At most this often a line is written: every write wakes the front end on a core that ggml is using."""


class DeltaWriter:
    """Emits text the moment the first arrives, then at most every `DELTA_INTERVAL_S`."""

    def __init__(self, request_id: int, emit: Callable[[Event], None]) -> None:
        self._id = request_id
        self._emit = emit
        self._channel: Channel = "answer"
        self._pending = ""
        self._logprobs: list[TokenLogprob] = []
        self._next_s = 0.0
        self._n_tokens = 0
        self._n_ctx_used = 0

    def push(self, parts: Sequence[Part], *, n_tokens: int, n_ctx_used: int, now_s: float) -> None:
        """Take the parts that token number `n_tokens` brought."""
        self._n_tokens, self._n_ctx_used = n_tokens, n_ctx_used
        for part in parts:
            self._take(part)
        if self._pending and now_s >= self._next_s:
            self._write()
            self._next_s = now_s + DELTA_INTERVAL_S

    def add_logprob(self, logprob: TokenLogprob) -> None:
        self._logprobs.append(logprob)

    def finish(self, parts: Sequence[Part]) -> None:
        """Take the last parts and write everything that is left."""
        for part in parts:
            self._take(part)
        if self._pending or self._logprobs:
            self._write()

    def _take(self, part: Part) -> None:
        match part:
            case TextPart(channel=channel, text=text):
                if channel != self._channel and self._pending:
                    self._write()
                self._channel = channel
                self._pending += text
            case ToolCallPart():
                if self._pending:
                    self._write()
                self._emit(
                    ToolCallDelta(
                        id=self._id,
                        index=part.index,
                        call_id=part.call_id,
                        name=part.name,
                        arguments=part.arguments,
                        n_tokens=self._n_tokens,
                    )
                )
            case _:
                assert_never(part)

    def _write(self) -> None:
        self._emit(
            Delta(
                id=self._id,
                text=self._pending,
                channel=self._channel,
                n_tokens=self._n_tokens,
                n_ctx_used=self._n_ctx_used,
                logprobs=tuple(self._logprobs),
            )
        )
        self._pending = ""
        self._logprobs.clear()

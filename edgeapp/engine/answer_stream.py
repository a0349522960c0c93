"""Turn an answer's token bytes into parts: text of a channel and tool calls.

Bytes become characters, characters become pieces by the model's dialect, and a stop string ends the answer.
Each stage holds back what may still change. Knows no token and no clock.
"""

from __future__ import annotations

import codecs
import secrets
from typing import TYPE_CHECKING

import msgspec

from edgeapp.engine.answer_text import StopFilter
from edgeapp.engine.dialects.pieces import CallPiece, Piece, TextPart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.engine.dialects.dialect import Dialect
    from edgeapp.protocol import Tool

N_CALL_ID_CHARS = 9  # Mistral's templates refuse any other length; letters and digits suit the rest


class ToolCallPart(msgspec.Struct, frozen=True):
    """A piece of tool call number `index`; `call_id` and `name` come with its first piece only."""

    index: int
    call_id: str
    name: str
    arguments: str


__all__ = ["AnswerStream", "Part", "TextPart", "ToolCallPart"]

Part = TextPart | ToolCallPart


class AnswerStream:
    """Feed bytes with `push`; the parts that come back are final.

    `prompt` is the rendered prompt, whose end says whether the answer begins inside a thought. `tools` are
    the request's; without any, calls are not looked for. `raw` leaves everything in the answer's text.
    `forced` is the end of `prompt` that counts as written by the model: the beginning of a call.
    """

    def __init__(
        self,
        dialect: Dialect,
        *,
        stop: Sequence[str] = (),
        raw: bool = False,
        prompt: str = "",
        tools: Sequence[Tool] = (),
        forced: str = "",
    ) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._filter = StopFilter(stop)
        self._parser = dialect.parser(prompt=prompt.removesuffix(forced), tools=tools)
        self._raw = raw
        self._n_calls = 0
        self._has_arguments = True
        self._ready = self._parts(forced) if forced else []

    @property
    def stopped(self) -> bool:
        """Whether a stop string was met: nothing more comes."""
        return self._filter.stopped

    @property
    def in_answer(self) -> bool:
        """Whether the next character belongs to the answer or a call, where a grammar may rule."""
        return self._parser is None or self._parser.in_answer

    @property
    def has_tool_calls(self) -> bool:
        return self._n_calls > 0

    def push(self, piece: bytes) -> list[Part]:
        """Return the parts that are certain now; nothing after a stop string."""
        text = self._decoder.decode(piece)
        if not text:
            return []
        if self._ready:
            ready, self._ready = self._ready, []
            return ready + self._parts(text)
        return self._parts(text)

    def finish(self) -> list[Part]:
        """Return what was held back, with U+FFFD for an unfinished character."""
        parts = self._ready + self._parts(self._decoder.decode(b"", final=True))
        if self._parser and not self._raw:
            parts += self._from_pieces(self._parser.finish())
        if text := self._filter.finish():
            parts.append(TextPart("answer", text))
        return parts + self._completed()

    def _parts(self, text: str) -> list[Part]:
        if self._parser is None or self._raw:
            if self._parser and not self.stopped:
                self._parser.push(text)
            shown = self._filter.push(text)
            return [TextPart("answer", shown)] if shown else []
        return self._from_pieces(self._parser.push(text))

    def _from_pieces(self, pieces: Sequence[Piece]) -> list[Part]:
        parts: list[Part] = []
        for piece in pieces:
            if self.stopped:
                break
            if isinstance(piece, CallPiece):
                parts += self._held_text()
                parts += self._from_call(piece)
            elif piece.channel == "answer":
                if shown := self._filter.push(piece.text):
                    parts.append(TextPart("answer", shown))
            else:
                parts += self._held_text()
                parts.append(piece)
        return parts

    def _held_text(self) -> list[Part]:
        """Let go of the beginning of a stop string: it cannot go on behind a thought or a call."""
        text = self._filter.finish()
        return [TextPart("answer", text)] if text else []

    def _from_call(self, piece: CallPiece) -> list[Part]:
        if not piece.name:
            self._has_arguments = self._has_arguments or bool(piece.arguments.strip())
            return [ToolCallPart(self._n_calls - 1, "", "", piece.arguments)]
        before = self._completed()
        self._n_calls += 1
        self._has_arguments = False
        return [*before, ToolCallPart(self._n_calls - 1, _call_id(), piece.name, piece.arguments)]

    def _completed(self) -> list[Part]:
        """Give a call without arguments the empty object that its readers expect."""
        if self._has_arguments:
            return []
        self._has_arguments = True
        return [ToolCallPart(self._n_calls - 1, "", "", "{}")]


def _call_id() -> str:
    return secrets.token_hex(N_CALL_ID_CHARS)[:N_CALL_ID_CHARS]

"""Harmony (gpt-oss): every message has a header that names its channel and its recipient.

`<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…`; a tool call is a
message to `functions.name`. Format: OpenAI's harmony response format, https://github.com/openai/harmony.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgeapp.engine.answer_text import Markers
from edgeapp.engine.dialects.dialect import Dialect, ForcedCall, Parser
from edgeapp.engine.dialects.forcing import named_json_call
from edgeapp.engine.dialects.pieces import CallPiece, Piece, TextPart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.protocol import Tool

MAX_HEADER_CHARS = 512
_CHANNEL, _MESSAGE, _START, _CONSTRAIN = "<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>", _START, _CHANNEL)
_HEADER_BEGINS = (_CHANNEL, _START, _CONSTRAIN, _MESSAGE, "<|end|>", "to=", "assistant")
_RECIPIENT = re.compile(r"to=([^\s<]+)")
_CHANNEL_NAME = re.compile(r"<\|channel\|>\s*(\w+)")

_State = Literal["header", "reasoning", "preamble", "answer", "call"]


class HarmonyParser:
    """Reads a header, then passes its message on. Text without a header is an answer."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._has_tools = bool(tools)
        self._state: _State = "header"
        self._text = ""
        self._pieces: list[Piece] = []
        self._has_answer = False
        self._needs_gap = False
        self._message, self._ends = Markers((_MESSAGE,)), Markers(_ENDS)

    @property
    def in_answer(self) -> bool:
        return self._state in {"answer", "call"}

    def push(self, text: str) -> list[Piece]:
        self._text += text
        while self._read_header() if self._state == "header" else self._read_message():
            pass
        return self._taken()

    def finish(self) -> list[Piece]:
        text, self._text = self._text, ""
        if self._state != "header":
            self._pass_on(text)
        return self._taken()

    def _taken(self) -> list[Piece]:
        pieces, self._pieces = self._pieces, []
        return pieces

    def _read_header(self) -> bool:
        found = self._message.find(self._text[:MAX_HEADER_CHARS])
        if not _may_be_header(self._text) or (not found and len(self._text) >= MAX_HEADER_CHARS):
            return self._enter("answer")
        if not found:
            return False
        header, self._text = self._text[: found.start()], self._text[found.end() :]
        return self._enter(*self._meaning(header))

    def _meaning(self, header: str) -> tuple[_State, str]:
        """Return the state that a header leads to, and the name of the tool it calls."""
        recipients = [name for name in _RECIPIENT.findall(header) if name not in {"assistant", "user"}]
        channels = _CHANNEL_NAME.findall(header)
        if recipients:
            return (
                ("call", recipients[-1].removeprefix("functions.")) if self._has_tools else ("reasoning", "")
            )
        match channels[-1:]:
            case ["analysis"]:
                return "reasoning", ""
            case ["commentary"]:
                return "preamble", ""
            case _:
                return "answer", ""

    def _enter(self, state: _State, name: str = "") -> bool:
        self._state = state
        if state == "call":
            self._pieces.append(CallPiece(name=name))
        self._needs_gap = self._has_answer
        return True

    def _read_message(self) -> bool:
        found = self._ends.find(self._text)
        if not found:
            n_passed = len(self._text) - self._ends.n_held(self._text)
            text, self._text = self._text[:n_passed], self._text[n_passed:]
            self._pass_on(text)
            return False
        self._pass_on(self._text[: found.start()])
        # A header may begin right here, without an end of the message before it.
        is_header = found.group() in {_START, _CHANNEL}
        self._text = self._text[found.start() if is_header else found.end() :]
        self._state = "header"
        return True

    def _pass_on(self, text: str) -> None:
        if not text:
            return
        if self._state == "call":
            self._pieces.append(CallPiece(arguments=text))
            return
        if self._state == "reasoning":
            self._pieces.append(TextPart("reasoning", text))
            return
        self._pieces.append(TextPart("answer", f"\n\n{text}" if self._needs_gap else text))
        self._has_answer, self._needs_gap = True, False


def _may_be_header(text: str) -> bool:
    begin = text.lstrip()
    return any(begin.startswith(known) or known.startswith(begin) for known in _HEADER_BEGINS)


@dataclass(frozen=True, kw_only=True)
class Harmony(Dialect):
    """gpt-oss. Its thoughts need no prefix: the model opens a channel for everything it writes."""

    @property
    def name(self) -> str:
        return "harmony"

    @property
    def special_texts(self) -> frozenset[str]:
        return frozenset({_MESSAGE, _CONSTRAIN, *_ENDS})

    @property
    def thinks(self) -> bool:
        return True

    @property
    def thought_tokens(self) -> frozenset[str]:
        return frozenset({_CHANNEL, _MESSAGE, _START})

    @property
    def calls_tools(self) -> bool:
        return True

    def parser(self, *, prompt: str, tools: Sequence[Tool]) -> Parser | None:  # noqa: ARG002 - see Dialect
        return HarmonyParser(tools)

    def _force(self, tools: Sequence[Tool]) -> ForcedCall | None:
        force = named_json_call(f"{_CHANNEL}commentary to=functions.", f" {_CONSTRAIN}json{_MESSAGE}")
        return force(tools)


HARMONY = Harmony()

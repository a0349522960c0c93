"""Gemma 4: `<|tool_call>call:name{key:<|"|>text<|"|>,n:3}<tool_call|>`, a JSON with quotes of its own."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from edgeapp.engine.dialects.dialect import CallReader, ToolFormat
from edgeapp.engine.dialects.forcing import tagged_call
from edgeapp.engine.dialects.tagged_calls import Call, TaggedCalls

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.protocol import Tool

QUOTE = '<|"|>'
MAX_DEPTH = 64
_CALL = re.compile(r"\s*call:([^\s{]+)\s*(?=\{)")
_BARE = re.compile(r"[^,\[\]{}]*")
_KEY = re.compile(r"\s*([^:{}\[\],]+?)\s*:")


class _Reader:
    """A descent through a value; raises `ValueError` where the text is none."""

    def __init__(self, text: str, at: int) -> None:
        self._text = text
        self.at = at

    def value(self, depth: int = 0) -> Any:
        if depth > MAX_DEPTH:
            raise ValueError(depth)
        self.skip_space()
        if self._text.startswith(QUOTE, self.at):
            return self._quoted()
        if self._takes("{"):
            return self._mapping(depth)
        if self._takes("["):
            return self._list(depth)
        bare = _BARE.match(self._text, self.at)
        if not bare or not bare.group().strip():
            raise ValueError(self.at)
        self.at = bare.end()
        return json.loads(bare.group())

    def skip_space(self) -> None:
        while self._text[self.at : self.at + 1].isspace():
            self.at += 1

    def _takes(self, char: str) -> bool:
        self.skip_space()
        found = self._text.startswith(char, self.at)
        self.at += len(char) if found else 0
        return found

    def _quoted(self) -> str:
        start = self.at + len(QUOTE)
        end = self._text.index(QUOTE, start)
        self.at = end + len(QUOTE)
        return self._text[start:end]

    def _mapping(self, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not self._takes("}"):
            if values and not self._takes(","):
                raise ValueError(self.at)
            key = self._key()
            values[key] = self.value(depth + 1)
        return values

    def _key(self) -> str:
        self.skip_space()
        if self._text.startswith(QUOTE, self.at):
            key = self._quoted()
            if not self._takes(":"):
                raise ValueError(self.at)
            return key
        found = _KEY.match(self._text, self.at)
        if not found:
            raise ValueError(self.at)
        self.at = found.end()
        return found.group(1)

    def _list(self, depth: int) -> list[Any]:
        values: list[Any] = []
        while not self._takes("]"):
            if values and not self._takes(","):
                raise ValueError(self.at)
            values.append(self.value(depth + 1))
        return values


def parse(body: str, _tools: Sequence[Tool]) -> list[Call] | None:
    found = _CALL.match(body)
    if not found:
        return None
    reader = _Reader(body, found.end())
    try:
        arguments = reader.value()
    except ValueError:
        return None
    reader.skip_space()
    return [(found.group(1), json.dumps(arguments, ensure_ascii=False))] if reader.at == len(body) else None


def _reader(opened: str, tools: Sequence[Tool]) -> CallReader:
    return TaggedCalls(opened, close="<tool_call|>", parse=parse, tools=tools)


GEMMA4 = ToolFormat(
    name="gemma4",
    openers={"<|tool_call>": _reader},
    inner=frozenset({QUOTE, "<tool_call|>"}),
    # After an answer with text and a call, the template opens no turn (llama.cpp, common/parsers/gemma4.cpp).
    mend=("<turn|>\n", "<|turn>model\n"),
    force=tagged_call("<|tool_call>call:", "{"),
)

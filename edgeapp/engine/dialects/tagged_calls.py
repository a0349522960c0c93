"""Tool calls in tags of their own: read as a whole, from the opening to the closing marker.

Values between tags carry no type. The tool's schema says whether `3` is a number or a text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from edgeapp.engine.dialects.pieces import CallPiece, Reading

if TYPE_CHECKING:
    from edgeapp.protocol import Tool

Call = tuple[str, str]
"""A tool's name and its arguments, as the text of a JSON object."""

ParseCalls = Callable[[str, Sequence["Tool"]], Sequence[Call] | None]
"""Parses what stands between the markers; None where it is no call."""


class TaggedCalls:
    """Waits for `close`; an answer that ends before it is parsed as far as it came."""

    def __init__(
        self,
        opened: str,
        *,
        close: str,
        parse: ParseCalls,
        tools: Sequence[Tool],
        keeps_markers: bool = False,
    ) -> None:
        self._opened = opened
        self._close = close
        self._parse = parse
        self._tools = tools
        self._keeps_markers = keeps_markers
        """The markers are part of the call and are parsed too."""
        self._text = ""

    def read(self, text: str) -> Reading:
        searched = max(0, len(self._text) - len(self._close))
        self._text += text
        end = self._text.find(self._close, searched)
        if end < 0:
            return Reading()
        return self._parsed(self._text[:end], self._close, rest=self._text[end + len(self._close) :])

    def finish(self) -> Reading:
        return self._parsed(self._text, "", rest="")

    def _parsed(self, body: str, close: str, *, rest: str) -> Reading:
        whole = self._opened + body + close
        found = self._parse(whole if self._keeps_markers else body, self._tools)
        if not found:
            return Reading(text=whole, rest=rest)
        pieces = [
            piece
            for name, arguments in found
            for piece in (CallPiece(name=name), CallPiece(arguments=arguments))
        ]
        return Reading(pieces=tuple(pieces), rest=rest)


def arguments_of(pairs: Sequence[tuple[str, str]], name: str, tools: Sequence[Tool]) -> str:
    """Return named texts as the text of a JSON object, typed by the schema of tool `name`."""
    schema = schema_of(name, tools)
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict):
        properties = {}
    values = {key: typed(text, properties.get(key)) for key, text in pairs}
    return json.dumps(values, ensure_ascii=False)


def schema_of(name: str, tools: Sequence[Tool]) -> Any:
    raw = next((tool.parameters for tool in tools if tool.name == name), None)
    if raw is None:
        return {}
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return {}


def typed(text: str, schema: Any) -> Any:
    """Read a value: as JSON unless the schema says that it is a text, or it is no JSON."""
    types = schema.get("type") if isinstance(schema, dict) else None
    allowed = types if isinstance(types, list) else [types]
    if "string" in allowed and not ("null" in allowed and text.strip() == "null"):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {"True": True, "False": False, "None": None}.get(text.strip(), text)
    return text if isinstance(value, str) and types is None else value


def between(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.DOTALL)

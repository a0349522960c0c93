"""DeepSeek R1, V3 and V3.1: a section of calls between full-width markers, a name, JSON arguments."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from edgeapp.engine.dialects.dialect import CallReader, ToolFormat
from edgeapp.engine.dialects.forcing import named_json_call
from edgeapp.engine.dialects.named_json_call import NamedJsonCall

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.protocol import Tool

_SECTION, _SECTION_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL, _SEPARATOR, _CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"


def _r1(opened: str, _tools: Sequence[Tool]) -> CallReader:
    return NamedJsonCall(opened, head_end="```json", closes=("```", _CALL_END), name_of=_r1_name)


def _r1_name(head: str) -> str | None:
    kind, separator, name = head.partition(_SEPARATOR)
    return (name if separator else kind.removeprefix("function")).strip() or None


def _v3_1(opened: str, _tools: Sequence[Tool]) -> CallReader:
    return NamedJsonCall(opened, head_end=_SEPARATOR, closes=(_CALL_END,))


def _describe(tools: Sequence[Any]) -> str:
    """Return the text that DeepSeek V3.1's model card asks for."""
    functions = [tool["function"] for tool in tools]
    described = "\n\n".join(
        f"### {function['name']}\nDescription: {function['description']}\n\n"
        f"Parameters: {json.dumps(function['parameters'], ensure_ascii=False)}"
        for function in functions
    )
    return (
        f"## Tools\nYou have access to the following tools:\n\n{described}\n\n"
        "IMPORTANT: ALWAYS adhere to this exact format for tool use:\n"
        f"{_SECTION}{_CALL}tool_call_name{_SEPARATOR}tool_call_arguments{_CALL_END}"
        f"{{additional_tool_calls}}{_SECTION_END}\n\n"
        "Where:\n- `tool_call_name` must be an exact match to one of the available tools\n"
        "- `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters Schema\n"
        "- For multiple tool calls, chain them directly without separators or spaces"
    )


_SILENT = frozenset({_SECTION_END, _CALL_END})

DEEPSEEK_R1 = ToolFormat(
    name="deepseek-r1",
    openers={_CALL: _r1},
    section=_SECTION,
    silent=_SILENT,
    inner=frozenset({_SEPARATOR}),
    force=named_json_call(f"{_SECTION}{_CALL}function{_SEPARATOR}", "\n```json\n"),
)

DEEPSEEK_V3_1 = ToolFormat(
    name="deepseek-v3.1",
    openers={_CALL: _v3_1},
    section=_SECTION,
    silent=_SILENT,
    inner=frozenset({_SEPARATOR}),
    describe=_describe,
    force=named_json_call(f"{_SECTION}{_CALL}", _SEPARATOR),
)

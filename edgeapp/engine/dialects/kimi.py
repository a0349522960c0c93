"""Kimi K2: `<|tool_call_begin|>functions.name:0<|tool_call_argument_begin|>{…}<|tool_call_end|>`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.engine.dialects.dialect import CallReader, ToolFormat
from edgeapp.engine.dialects.forcing import named_json_call
from edgeapp.engine.dialects.named_json_call import NamedJsonCall

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.protocol import Tool

_SECTION, _SECTION_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
_CALL, _ARGUMENTS, _CALL_END = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"


def _reader(opened: str, _tools: Sequence[Tool]) -> CallReader:
    return NamedJsonCall(opened, head_end=_ARGUMENTS, closes=(_CALL_END,), name_of=_name)


def _name(head: str) -> str | None:
    return head.strip().removeprefix("functions.").rpartition(":")[0] or head.strip() or None


def _written(calls: Sequence[tuple[str, str]]) -> str:
    written = (
        f"{_CALL}functions.{name}:{number}{_ARGUMENTS}{arguments}{_CALL_END}"
        for number, (name, arguments) in enumerate(calls)
    )
    return f"{_SECTION}{''.join(written)}{_SECTION_END}"


KIMI = ToolFormat(
    name="kimi",
    openers={_CALL: _reader},
    section=_SECTION,
    silent=frozenset({_SECTION_END, _CALL_END}),
    inner=frozenset({_ARGUMENTS}),
    write=_written,
    ends_reasoning=True,
    force=named_json_call(f"{_SECTION}{_CALL}functions.", f":0{_ARGUMENTS}"),
)

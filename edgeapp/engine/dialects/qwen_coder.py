"""Qwen3-Coder, Qwen3.5, Nemotron 3, Step: a function in tags, each parameter in a tag of its own.

`<tool_call><function=search><parameter=query>text</parameter></function></tool_call>`; ByteDance's Seed
writes the same between `<seed:tool_call>`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.engine.dialects.dialect import CallReader, ToolFormat
from edgeapp.engine.dialects.forcing import tagged_call
from edgeapp.engine.dialects.json_calls import call_of
from edgeapp.engine.dialects.tagged_calls import Call, TaggedCalls, arguments_of, between

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.protocol import Tool

_FUNCTION = between(r"<function=([^>\s]+)\s*>(.*?)</function>")
_PARAMETER = between(r"<parameter=([^>]+)>\n?(.*?)\n?(?:</parameter>|(?=<parameter=)|\Z)")


def parse(body: str, tools: Sequence[Tool]) -> list[Call] | None:
    if body.lstrip().startswith("{"):  # such a model may fall back to the JSON of its relatives
        call = call_of(body)
        return [call] if call else None
    found = [
        (name, arguments_of(_PARAMETER.findall(inner), name, tools))
        for name, inner in _FUNCTION.findall(body)
    ]
    return found or None


def _tagged(opened: str, tools: Sequence[Tool]) -> CallReader:
    return TaggedCalls(opened, close=opened.replace("<", "</"), parse=parse, tools=tools)


def _unannounced(opened: str, tools: Sequence[Tool]) -> CallReader:
    return TaggedCalls(opened, close="</function>", parse=parse, tools=tools, keeps_markers=True)


QWEN_CODER = ToolFormat(
    name="qwen-coder",
    # Qwen3-Coder often forgets the outer tag.
    openers={"<tool_call>": _tagged, "<function=": _unannounced},
    silent=frozenset({"</tool_call>"}),
    ends_reasoning=True,
    force=tagged_call("<tool_call>\n<function=", ">\n"),
)

SEED = ToolFormat(
    name="seed",
    openers={"<seed:tool_call>": _tagged},
    inner=frozenset({"</seed:tool_call>"}),
    force=tagged_call("<seed:tool_call>\n<function=", ">\n"),
)

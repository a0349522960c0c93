"""GLM 4.5 and later: `<tool_call>name<arg_key>key</arg_key><arg_value>value</arg_value></tool_call>`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.engine.dialects.dialect import CallReader, ToolFormat
from edgeapp.engine.dialects.forcing import tagged_call
from edgeapp.engine.dialects.json_calls import call_of
from edgeapp.engine.dialects.tagged_calls import Call, TaggedCalls, arguments_of, between

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.protocol import Tool

_NAME = between(r"\s*([^\s<{]+)\s*")
_ARGUMENT = between(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>\s*")


def parse(body: str, tools: Sequence[Tool]) -> list[Call] | None:
    if body.lstrip().startswith("{"):
        call = call_of(body)
        return [call] if call else None
    name = _NAME.match(body)
    if not name:
        return None
    at, pairs = name.end(), []
    while found := _ARGUMENT.match(body, at):
        pairs.append((found.group(1).strip(), found.group(2)))
        at = found.end()
    return [(name.group(1), arguments_of(pairs, name.group(1), tools))] if at == len(body) else None


def _reader(opened: str, tools: Sequence[Tool]) -> CallReader:
    return TaggedCalls(opened, close="</tool_call>", parse=parse, tools=tools)


GLM = ToolFormat(
    name="glm",
    openers={"<tool_call>": _reader},
    inner=frozenset({"</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"}),
    ends_reasoning=True,
    force=tagged_call("<tool_call>", "\n<arg_key>"),
)

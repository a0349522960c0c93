"""Force a tool call: the beginning of a call as a prefix, a grammar for what the model writes behind it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from edgeapp.engine.dialects.dialect import ForcedCall
from edgeapp.engine.dialects.tagged_calls import schema_of
from edgeapp.protocol import Grammar, Tool

Force = Callable[[Sequence[Tool]], ForcedCall | None]


def arguments_schema(tool: Tool) -> dict[str, Any]:
    """Return the schema of a tool's arguments, which is an object whatever the tool says."""
    schema = schema_of(tool.name, (tool,))
    return {"type": "object", **schema} if isinstance(schema, dict) else {"type": "object"}


def json_object_call(opening: str, *, arguments_key: str = "arguments") -> Force:
    """Force `opening` and a JSON object of name and arguments; one tool's name goes into the prefix."""

    def force(tools: Sequence[Tool]) -> ForcedCall | None:
        if len(tools) == 1:
            name = json.dumps(tools[0].name, ensure_ascii=False)
            prefix = f'{opening}{{"name": {name}, "{arguments_key}": '
            return ForcedCall(prefix=prefix, grammar=_schema_grammar(arguments_schema(tools[0])))
        calls = [_call_schema(tool, arguments_key) for tool in tools]
        return ForcedCall(prefix=opening, grammar=_schema_grammar({"anyOf": calls}))

    return force


def named_json_call(before_name: str, after_name: str) -> Force:
    """Force a call whose name stands between markers, with JSON arguments.

    Among several tools the model is only led to the name: no grammar crosses the control token behind it.
    """

    def force(tools: Sequence[Tool]) -> ForcedCall | None:
        if len(tools) > 1:
            return ForcedCall(prefix=before_name)
        prefix = f"{before_name}{tools[0].name}{after_name}"
        return ForcedCall(prefix=prefix, grammar=_schema_grammar(arguments_schema(tools[0])))

    return force


def tagged_call(before_name: str, after_name: str) -> Force:
    """Force a call with arguments in tags: the name is certain, its arguments are the model's."""

    def force(tools: Sequence[Tool]) -> ForcedCall | None:
        if len(tools) == 1:
            return ForcedCall(prefix=f"{before_name}{tools[0].name}{after_name}")
        names = "|".join(re.escape(tool.name) for tool in tools)
        source = f"({names}){re.escape(after_name)}(.|\\n)*"
        return ForcedCall(prefix=before_name, grammar=Grammar(kind="regex", source=source))

    return force


def _call_schema(tool: Tool, arguments_key: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": tool.name}, arguments_key: arguments_schema(tool)},
        "required": ["name", arguments_key],
        "additionalProperties": False,
    }


def _schema_grammar(schema: dict[str, Any]) -> Grammar:
    return Grammar(kind="json_schema", source=json.dumps(schema, ensure_ascii=False))

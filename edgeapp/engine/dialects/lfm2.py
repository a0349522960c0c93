"""LFM2: calls in Python's syntax, `<|tool_call_start|>[search(query="text")]<|tool_call_end|>`."""

from __future__ import annotations

import ast
import json
from typing import TYPE_CHECKING, Any

from edgeapp.engine.dialects.dialect import CallReader, ToolFormat
from edgeapp.engine.dialects.forcing import tagged_call
from edgeapp.engine.dialects.tagged_calls import Call, TaggedCalls

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.protocol import Tool

MAX_CHARS = 64 * 1024
"""Longer texts are not parsed as Python."""
_JSON_NAMES = {"true": True, "false": False, "null": None}


def parse(body: str, _tools: Sequence[Tool]) -> list[Call] | None:
    if len(body) > MAX_CHARS:
        return None
    try:
        tree = ast.parse(body.strip(), mode="eval").body
        nodes = tree.elts if isinstance(tree, ast.List) else [tree]
        return [_call(node) for node in nodes] or None
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None


def _call(node: ast.expr) -> Call:
    if not isinstance(node, ast.Call) or node.args:
        raise ValueError(node)
    arguments = {keyword.arg: _value(keyword.value) for keyword in node.keywords if keyword.arg}
    return ast.unparse(node.func), json.dumps(arguments, ensure_ascii=False)


def _value(node: ast.expr) -> Any:
    """Evaluate a literal, with JSON's names for its constants too."""
    if isinstance(node, ast.Name):
        if node.id not in _JSON_NAMES:
            raise ValueError(node.id)
        return _JSON_NAMES[node.id]
    if isinstance(node, ast.Dict):
        return {
            str(_value(key)): _value(value)
            for key, value in zip(node.keys, node.values, strict=True)
            if key is not None
        }
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item) for item in node.elts]
    return ast.literal_eval(node)


def _reader(opened: str, tools: Sequence[Tool]) -> CallReader:
    return TaggedCalls(opened, close="<|tool_call_end|>", parse=parse, tools=tools)


def _written(calls: Sequence[tuple[str, str]]) -> str:
    written = (f"{name}({_keywords(arguments)})" for name, arguments in calls)
    return f"<|tool_call_start|>[{', '.join(written)}]<|tool_call_end|>"


def _keywords(arguments: str) -> str:
    try:
        values = dict(json.loads(arguments))
    except (ValueError, TypeError, RecursionError):
        return arguments
    return ", ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items())


LFM2 = ToolFormat(
    name="lfm2",
    openers={"<|tool_call_start|>": _reader},
    inner=frozenset({"<|tool_call_end|>"}),
    write=_written,
    force=tagged_call("<|tool_call_start|>[", "("),
)

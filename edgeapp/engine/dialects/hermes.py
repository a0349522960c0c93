"""Hermes and Qwen: `<tool_call>{"name": …, "arguments": …}</tool_call>`.

The format for models without one of their own, too: `describe` puts the tools into a system message.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from edgeapp.engine.dialects.dialect import CallReader, ToolFormat
from edgeapp.engine.dialects.forcing import json_object_call
from edgeapp.engine.dialects.json_calls import JsonCalls, tool_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.protocol import Tool


def _reader(opened: str, _tools: Sequence[Tool]) -> CallReader:
    return JsonCalls(opened, closes=("</tool_call>",))


def _bare(opened: str, tools: Sequence[Tool]) -> CallReader:
    return JsonCalls(opened, only=tool_names(tools))


HERMES = ToolFormat(
    name="hermes",
    openers={"<tool_call>": _reader},
    inner=frozenset({"</tool_call>"}),
    force=json_object_call("<tool_call>\n"),
)

DESCRIBED = ToolFormat(
    name="described",
    openers={"<tool_call>": _reader},
    bare=_bare,
    inner=frozenset({"</tool_call>"}),
    force=json_object_call("<tool_call>\n"),
)
"""For a model that was never trained on the format and may forget its markers."""


def describe(tools: Sequence[Any]) -> str:
    """Return the text that makes `tools` (OpenAI's shape) known, after Qwen2.5's chat template."""
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    return (
        "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        "You are provided with function signatures within <tools></tools> XML tags:\n"
        f"<tools>\n{lines}\n</tools>\n\n"
        "For each function call, return a json object with function name and arguments within "
        "<tool_call></tool_call> XML tags:\n"
        '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
    )

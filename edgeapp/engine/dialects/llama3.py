"""Llama 3.1 to 3.3: an answer that is nothing but `{"name": …, "parameters": {…}}`.

`<|python_tag|>` may stand before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.engine.dialects.dialect import CallReader, ToolFormat
from edgeapp.engine.dialects.forcing import json_object_call
from edgeapp.engine.dialects.json_calls import JsonCalls, tool_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.protocol import Tool


def _reader(opened: str, tools: Sequence[Tool]) -> CallReader:
    return JsonCalls(opened, closes=(";",), only=tool_names(tools))


LLAMA3 = ToolFormat(
    name="llama3",
    openers={"<|python_tag|>": _reader},
    bare=_reader,
    force=json_object_call("", arguments_key="parameters"),
)

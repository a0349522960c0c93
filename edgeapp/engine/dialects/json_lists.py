"""A list of JSON calls between two markers: Cohere, Granite 3, Nemotron, Phi-4 and more."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

from edgeapp.engine.dialects.dialect import CallReader, ToolFormat
from edgeapp.engine.dialects.forcing import json_object_call
from edgeapp.engine.dialects.json_calls import JsonCalls, tool_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.protocol import Tool


def _reader(opened: str, tools: Sequence[Tool], *, close: str) -> CallReader:
    return JsonCalls(opened, closes=(close,), keyed=tool_names(tools))


def _written(calls: Sequence[tuple[str, str]], *, opening: str, closing: str) -> str:
    objects = (f'{{"name": {json.dumps(name)}, "arguments": {arguments}}}' for name, arguments in calls)
    return f"{opening}[{', '.join(objects)}]{closing}"


def _format(name: str, opening: str, closing: str) -> ToolFormat:
    return ToolFormat(
        name=name,
        openers={opening: partial(_reader, close=closing)},
        inner=frozenset({closing}),
        write=partial(_written, opening=opening, closing=closing),
        force=json_object_call(f"{opening}["),
    )


FORMATS = (
    _format("cohere", "<|START_ACTION|>", "<|END_ACTION|>"),
    _format("nemotron", "<TOOLCALL>", "</TOOLCALL>"),
    _format("apriel", "<tool_calls>", "</tool_calls>"),
    _format("apertus", "<|tools_prefix|>", "<|tools_suffix|>"),
    _format("phi4", "<|tool_call|>", "<|/tool_call|>"),
)
"""In the order in which a template is searched for their opening marker."""

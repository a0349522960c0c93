"""Mistral: `[TOOL_CALLS][{"name": …}]` until 2024, then `[TOOL_CALLS]name[ARGS]{…}`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.engine.dialects.dialect import CallReader, ToolFormat
from edgeapp.engine.dialects.forcing import json_object_call, named_json_call
from edgeapp.engine.dialects.json_calls import JsonCalls
from edgeapp.engine.dialects.named_json_call import NamedJsonCall

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.protocol import Tool


def _list(opened: str, _tools: Sequence[Tool]) -> CallReader:
    return JsonCalls(opened)


def _named(opened: str, _tools: Sequence[Tool]) -> CallReader:
    return NamedJsonCall(opened, head_end="[ARGS]", name_of=_name)


def _name(head: str) -> str | None:
    return head.split("[CALL_ID]", maxsplit=1)[0].strip() or None


MISTRAL_LIST = ToolFormat(
    name="mistral", openers={"[TOOL_CALLS]": _list}, force=json_object_call("[TOOL_CALLS][")
)

MISTRAL_NAMED = ToolFormat(
    name="mistral-named",
    openers={"[TOOL_CALLS]": _named},
    inner=frozenset({"[ARGS]", "[CALL_ID]"}),
    force=named_json_call("[TOOL_CALLS]", "[ARGS]"),
)

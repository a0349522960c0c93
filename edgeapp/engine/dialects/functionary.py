"""Functionary 3.1: `<function=name>{…}</function>`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.engine.dialects.dialect import CallReader, ToolFormat
from edgeapp.engine.dialects.forcing import named_json_call
from edgeapp.engine.dialects.named_json_call import NamedJsonCall

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.protocol import Tool


def _reader(opened: str, _tools: Sequence[Tool]) -> CallReader:
    return NamedJsonCall(opened, head_end=">", closes=("</function>",))


FUNCTIONARY = ToolFormat(
    name="functionary",
    openers={"<function=": _reader},
    inner=frozenset({"</function>"}),
    force=named_json_call("<function=", ">"),
)

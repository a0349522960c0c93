"""MiniMax M2 and DeepSeek V3.2: `<invoke name="…"><parameter name="…">value</parameter></invoke>`.

DeepSeek puts its `｜DSML｜` into every tag and says whether a value is a text.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from edgeapp.engine.dialects.dialect import CallReader, ToolFormat
from edgeapp.engine.dialects.forcing import tagged_call
from edgeapp.engine.dialects.tagged_calls import Call, TaggedCalls, arguments_of, between

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.protocol import Tool

DSML = "｜DSML｜"
_INVOKE = between(rf'<(?:{DSML})?invoke name="([^"]+)"\s*>(.*?)</(?:{DSML})?invoke>')
_PARAMETER = between(
    rf'<(?:{DSML})?parameter name="([^"]+)"(?: string="(?:true|false)")?\s*>(.*?)</(?:{DSML})?parameter>'
)


def parse(body: str, tools: Sequence[Tool]) -> list[Call] | None:
    found = [
        (name, arguments_of(_PARAMETER.findall(inner), name, tools)) for name, inner in _INVOKE.findall(body)
    ]
    return found or None


def _reader(opened: str, tools: Sequence[Tool], *, close: str) -> CallReader:
    return TaggedCalls(opened, close=close, parse=parse, tools=tools)


def _format(name: str, opening: str, closing: str, invoke: str) -> ToolFormat:
    return ToolFormat(
        name=name,
        openers={opening: partial(_reader, close=closing)},
        inner=frozenset({closing, DSML}),
        ends_reasoning=True,
        force=tagged_call(f'{opening}\n<{invoke} name="', '">'),
    )


MINIMAX = _format("minimax", "<minimax:tool_call>", "</minimax:tool_call>", "invoke")
DEEPSEEK_V3_2 = _format(
    "deepseek-v3.2", f"<{DSML}function_calls>", f"</{DSML}function_calls>", f"{DSML}invoke"
)
DEEPSEEK_V4 = _format("deepseek-v4", f"<{DSML}tool_calls>", f"</{DSML}tool_calls>", f"{DSML}invoke")

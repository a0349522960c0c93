"""Choose the dialect of a model from the text of its chat template. Pure.

The order follows llama.cpp (common/chat.cpp, common_chat_try_specialized_template): the narrow signs first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from edgeapp.engine.dialects.deepseek import DEEPSEEK_R1, DEEPSEEK_V3_1
from edgeapp.engine.dialects.dialect import Dialect, ToolFormat
from edgeapp.engine.dialects.functionary import FUNCTIONARY
from edgeapp.engine.dialects.gemma import GEMMA4
from edgeapp.engine.dialects.glm import GLM
from edgeapp.engine.dialects.harmony import HARMONY
from edgeapp.engine.dialects.hermes import HERMES
from edgeapp.engine.dialects.invoke import DEEPSEEK_V3_2, DEEPSEEK_V4, MINIMAX
from edgeapp.engine.dialects.json_lists import FORMATS
from edgeapp.engine.dialects.kimi import KIMI
from edgeapp.engine.dialects.lfm2 import LFM2
from edgeapp.engine.dialects.llama3 import LLAMA3
from edgeapp.engine.dialects.mistral import MISTRAL_LIST, MISTRAL_NAMED
from edgeapp.engine.dialects.qwen_coder import QWEN_CODER, SEED
from edgeapp.engine.dialects.think import THINK, reasoning_of

Sign = Callable[[str], bool]


def dialect_of(source: str, vocabulary: Collection[str] = ()) -> Dialect:
    """Return the dialect of a template; `vocabulary` holds the texts of the model's special tokens.

    A template that never mentions thoughts may belong to a model that thinks: its vocabulary knows.
    """
    if "<|channel|>" in source and "<|message|>" in source:
        return HARMONY
    reasoning = reasoning_of(source)
    if reasoning is None and {THINK.open, THINK.close} <= set(vocabulary):
        reasoning = THINK
    return Dialect(reasoning=reasoning, tools=tool_format_of(source))


def tool_format_of(source: str) -> ToolFormat | None:
    """Return the format in which a template writes tool calls, None when it is none that we parse."""
    return next((format_ for format_, sign in _SIGNS if sign(source)), None)


def _has(*texts: str, but_not: str = "\0") -> Sign:
    return lambda source: all(text in source for text in texts) and but_not not in source


_SIGNS: tuple[tuple[ToolFormat, Sign], ...] = (
    (MISTRAL_NAMED, _has("[TOOL_CALLS]", "[ARGS]")),
    (MISTRAL_LIST, _has("[TOOL_CALLS]")),
    (KIMI, _has("<|tool_call_begin|>", "<|tool_call_argument_begin|>")),
    (DEEPSEEK_V3_2, _has("DSML", "function_calls>")),
    (DEEPSEEK_V4, _has("DSML", "tool_calls>")),
    (DEEPSEEK_R1, _has("<｜tool▁call▁begin｜>", "```json")),
    (DEEPSEEK_R1, _has("<｜tool▁call▁begin｜>", "\\n```")),
    (DEEPSEEK_V3_1, _has("<｜tool▁call▁begin｜>")),
    (GEMMA4, _has("<|tool_call>call:")),
    (LFM2, _has("<|tool_call_start|>")),
    (LFM2, _has("<|tool_list_start|>")),
    (LFM2, _has("List of tools: [")),
    (MINIMAX, _has("<minimax:tool_call>", "<invoke name=")),
    (SEED, _has("<seed:tool_call>", "<function=")),
    (GLM, _has("<tool_call>", "<arg_key>")),
    (QWEN_CODER, _has("<tool_call>", "<function=", "<parameter=")),
    (FUNCTIONARY, _has("<function=", but_not="<parameter=")),
    (next(f for f in FORMATS if f.name == "apriel"), _has("<tool_calls>[")),
    (HERMES, _has("<tool_call>", but_not="]<]minimax[>[")),
    *((format_, _has(next(iter(format_.openers)))) for format_ in FORMATS),
    (LLAMA3, _has("<|start_header_id|>", '"parameters": ')),
)

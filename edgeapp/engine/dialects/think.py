"""Thoughts in tags: `<think>…</think>` (Qwen3, DeepSeek-R1, GLM, MiniMax …) and its relatives."""

from __future__ import annotations

from edgeapp.engine.dialects.dialect import Reasoning

THINK = Reasoning(open="<think>", close="</think>")
GRANITE = Reasoning(
    open="<think>", close="</think>", silent=frozenset({"<response>", "</response>"}), is_plain=True
)
MISTRAL = Reasoning(open="[THINK]", close="[/THINK]")
SEED = Reasoning(open="<seed:think>", close="</seed:think>")
COHERE = Reasoning(
    open="<|START_THINKING|>",
    close="<|END_THINKING|>",
    silent=frozenset({"<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"}),
)
APERTUS = Reasoning(open="<|inner_prefix|>", close="<|inner_suffix|>")
APRIEL = Reasoning(open="Here are my reasoning steps:\n", close="[BEGIN FINAL RESPONSE]", is_plain=True)
GEMMA = Reasoning(
    open="<|channel>thought",
    close="<channel|>",
    anywhere=True,
    tokens=frozenset({"<|channel>", "<channel|>"}),
)


def reasoning_of(source: str) -> Reasoning | None:
    """Return the reasoning family of a chat template, by the markers that it mentions."""
    if "</think>" in source:
        return GRANITE if "<response>" in source and "<|start_of_role|>" in source else THINK
    rest = (MISTRAL, SEED, COHERE, APRIEL, GEMMA, APERTUS)
    return next((family for family in rest if family.open.strip() in source and family.close in source), None)

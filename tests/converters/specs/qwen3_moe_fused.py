"""Qwen3-MoE as transformers 5 holds it in memory: all experts of a layer in two stacks."""

from __future__ import annotations

from tests.converters.specs import qwen3_moe

CONFIG = qwen3_moe.CONFIG


def tensors() -> list[tuple[str, tuple[int, ...], str]]:
    split = [tensor for tensor in qwen3_moe.tensors() if ".experts." not in tensor[0]]
    for layer in range(2):
        experts = f"model.layers.{layer}.mlp.experts"
        split += [
            (f"{experts}.gate_up_proj", (8, 512, 256), "BF16"),
            (f"{experts}.down_proj", (8, 256, 256), "BF16"),
        ]
    return split

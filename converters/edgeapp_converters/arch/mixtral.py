"""Mixtral: LLaMA's layers with routed experts. Pure: config and names to a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp_converters.arch import experts
from edgeapp_converters.arch.llama import plan_llama

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeapp_converters.arch.assembly import Assembly
    from edgeapp_converters.arch.config import Config
    from edgeapp_converters.plan import ModelPlan
    from edgeapp_converters.source import SourceTensor

ARCHITECTURES = ("MixtralForCausalLM",)


def plan(config: Config, tensors: Mapping[str, SourceTensor]) -> ModelPlan:
    """Plan a GGUF of architecture `llama` with experts."""
    n_expert = config.integer("num_local_experts")

    def feed_forward(assembly: Assembly, block: str, source: str) -> None:
        # transformers 5 may keep the block's newer name and its stacked experts.
        old, new = f"{source}.block_sparse_moe", f"{source}.mlp"
        moe = old if f"{old}.gate.weight" in assembly else new
        assembly.copy(f"{block}.ffn_gate_inp.weight", f"{moe}.gate.weight")
        experts.routed(assembly, block, f"{moe}.experts", n_expert, names=experts.META_NAMES)

    return plan_llama(
        config,
        tensors,
        feed_forward=feed_forward,
        n_expert=n_expert,
        n_expert_used=config.integer("num_experts_per_tok"),
    )

"""Qwen2-MoE and Qwen3-MoE. Pure: config and names to a plan.

Qwen2-MoE has biases and a shared expert behind a gate of its own, Qwen3-MoE norms of query and key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.errors import UnsupportedCheckpoint
from edgeapp_converters.arch import ends, experts, keys, plain_attention
from edgeapp_converters.arch.assembly import Assembly
from edgeapp_converters.metadata import Metadata, f32, u32
from edgeapp_converters.plan import ModelPlan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeapp_converters.arch.config import Config
    from edgeapp_converters.source import SourceTensor

ARCHITECTURES = ("Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM")

_NAMES = {"Qwen2MoeForCausalLM": "qwen2moe", "Qwen3MoeForCausalLM": "qwen3moe"}


def plan(config: Config, tensors: Mapping[str, SourceTensor]) -> ModelPlan:
    """Plan a GGUF of architecture `qwen2moe` or `qwen3moe`.

    Raise `UnsupportedCheckpoint` for members with dense layers between, which llama.cpp does not run.
    """
    arch = _NAMES[config.architecture]
    if config.mapping_or_list("mlp_only_layers") or config.integer("decoder_sparse_step", 1) != 1:
        raise UnsupportedCheckpoint("llama.cpp runs this family only with experts in every layer.")
    n_layer = config.integer("num_hidden_layers")
    assembly = Assembly(tensors, fp8_block=keys.fp8_block(config))
    # qwen2moe's loader does not take a missing output for the embedding (src/models/qwen2moe.cpp).
    ends.ends(assembly, config, repeat_tied=arch == "qwen2moe")
    for layer in range(n_layer):
        plain_attention.copy(assembly, f"blk.{layer}", f"model.layers.{layer}")
        _experts(assembly, config, f"blk.{layer}", f"model.layers.{layer}.mlp")
    return ModelPlan(
        architecture=arch,
        metadata=_metadata(arch, config, n_layer),
        tensors=assembly.finish(),
        n_layer=n_layer,
        n_expert=config.integer("num_experts"),
        n_expert_used=config.integer("num_experts_per_tok"),
        ignored=tuple(assembly.ignored),
    )


def _experts(assembly: Assembly, config: Config, block: str, source: str) -> None:
    assembly.copy(f"{block}.ffn_gate_inp.weight", f"{source}.gate.weight")
    experts.routed(assembly, block, f"{source}.experts", config.integer("num_experts"))
    if config.architecture == "Qwen2MoeForCausalLM":
        experts.dense(assembly, block, f"{source}.shared_expert", suffix="_shexp")
        gate = f"{source}.shared_expert_gate.weight"
        assembly.copy(f"{block}.ffn_gate_inp_shexp.weight", gate, (config.integer("hidden_size"),))


def _metadata(arch: str, config: Config, n_layer: int) -> Metadata:
    metadata = keys.sizes(arch, config, n_layer=n_layer, n_head_kv=plain_attention.n_head_kv(config))
    metadata |= keys.rotary(arch, config)
    metadata |= keys.experts(
        arch,
        n_expert=config.integer("num_experts"),
        n_expert_used=config.integer("num_experts_per_tok"),
        n_ff=config.integer("moe_intermediate_size"),
    )
    if (head_dim := config.optional_integer("head_dim")) is not None:
        metadata |= keys.head_dim(arch, head_dim)
    if (n_ff_shared := config.optional_integer("shared_expert_intermediate_size")) is not None:
        metadata[f"{arch}.expert_shared_feed_forward_length"] = u32(n_ff_shared)
    metadata[f"{arch}.attention.layer_norm_rms_epsilon"] = f32(config.number("rms_norm_eps"))
    return metadata

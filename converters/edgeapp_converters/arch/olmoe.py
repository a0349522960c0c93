"""OLMoE. Pure: config and names to a plan. Its norms of query and key span all heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.errors import UnsupportedCheckpoint
from edgeapp_converters.arch import ends, experts, keys, plain_attention
from edgeapp_converters.arch.assembly import Assembly
from edgeapp_converters.metadata import Metadata, f32
from edgeapp_converters.plan import ModelPlan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeapp_converters.arch.config import Config
    from edgeapp_converters.source import SourceTensor

ARCHITECTURES = ("OlmoeForCausalLM",)

_ARCH = "olmoe"
_EPSILON = 1e-5  # llama.cpp, conversion/olmo.py, whatever config.json says


def plan(config: Config, tensors: Mapping[str, SourceTensor]) -> ModelPlan:
    """Plan a GGUF of architecture `olmoe`. Raise `UnsupportedCheckpoint` for what llama.cpp has fixed."""
    if config.optional_number("clip_qkv") is not None:
        raise UnsupportedCheckpoint("llama.cpp runs OLMoE only without clip_qkv.")
    if config.optional_flag("norm_topk_prob"):
        raise UnsupportedCheckpoint("llama.cpp runs OLMoE only with norm_topk_prob false.")
    n_layer = config.integer("num_hidden_layers")
    assembly = Assembly(tensors, fp8_block=keys.fp8_block(config))
    # Its loader does not take a missing output for the embedding (src/models/olmoe.cpp).
    ends.ends(assembly, config, repeat_tied=True)
    for layer in range(n_layer):
        block, source = f"blk.{layer}", f"model.layers.{layer}"
        plain_attention.copy(assembly, block, source)
        assembly.copy(f"{block}.ffn_gate_inp.weight", f"{source}.mlp.gate.weight")
        experts.routed(assembly, block, f"{source}.mlp.experts", config.integer("num_experts"))
    return ModelPlan(
        architecture=_ARCH,
        metadata=_metadata(config, n_layer),
        tensors=assembly.finish(),
        n_layer=n_layer,
        n_expert=config.integer("num_experts"),
        n_expert_used=config.integer("num_experts_per_tok"),
        ignored=tuple(assembly.ignored),
    )


def _metadata(config: Config, n_layer: int) -> Metadata:
    metadata = keys.sizes(_ARCH, config, n_layer=n_layer, n_head_kv=plain_attention.n_head_kv(config))
    metadata |= keys.rotary(_ARCH, config)
    metadata |= keys.experts(
        _ARCH,
        n_expert=config.integer("num_experts"),
        n_expert_used=config.integer("num_experts_per_tok"),
    )
    metadata[f"{_ARCH}.attention.layer_norm_rms_epsilon"] = f32(_EPSILON)
    return metadata

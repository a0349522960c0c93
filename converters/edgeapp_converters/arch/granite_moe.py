"""Granite-MoE, with and without a shared expert. Pure: config and names to a plan.

Gate and up rows of all experts are fused in `input_linear`, gate first. Four multipliers of the network's
activations become GGUF keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.errors import UnsupportedCheckpoint
from edgeapp_converters.arch import ends, experts, keys
from edgeapp_converters.arch.assembly import Assembly
from edgeapp_converters.arch.permutation import copy_interleaved
from edgeapp_converters.metadata import Metadata, f32, u32
from edgeapp_converters.plan import ModelPlan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeapp_converters.arch.config import Config
    from edgeapp_converters.source import SourceTensor

ARCHITECTURES = ("GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM")

_ARCH = "granitemoe"
_MULTIPLIERS = {
    "attention_multiplier": "attention.scale",
    "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale",
    "logits_scaling": "logit_scale",
}


def plan(config: Config, tensors: Mapping[str, SourceTensor]) -> ModelPlan:
    """Plan a GGUF of architecture `granitemoe`.

    Raise `UnsupportedCheckpoint` for a head size that does not follow from the width.
    """
    n_layer = config.integer("num_hidden_layers")
    _check_head(config)
    assembly = Assembly(tensors, fp8_block=keys.fp8_block(config))
    ends.ends(assembly, config)
    for layer in range(n_layer):
        _attention(assembly, config, f"blk.{layer}", f"model.layers.{layer}")
        _experts(assembly, config, f"blk.{layer}", f"model.layers.{layer}")
    return ModelPlan(
        architecture=_ARCH,
        metadata=_metadata(config, n_layer),
        tensors=assembly.finish(),
        n_layer=n_layer,
        n_expert=config.integer("num_local_experts"),
        n_expert_used=config.integer("num_experts_per_tok"),
        ignored=tuple(assembly.ignored),
    )


def _check_head(config: Config) -> None:
    said = config.optional_integer("head_dim")
    if said not in (None, _head_dim(config)):
        raise UnsupportedCheckpoint(
            f"llama.cpp runs Granite only with heads of {_head_dim(config)} dimensions, the width divided by "
            f"the number of heads, not of {said}."
        )


def _head_dim(config: Config) -> int:
    return config.integer("hidden_size") // keys.positive(config, "num_attention_heads")


def _attention(assembly: Assembly, config: Config, block: str, source: str) -> None:
    n_head, n_head_kv = config.integer("num_attention_heads"), config.integer("num_key_value_heads")
    assembly.copy(f"{block}.attn_norm.weight", f"{source}.input_layernorm.weight")
    copy_interleaved(assembly, f"{block}.attn_q", f"{source}.self_attn.q_proj", n_head)
    copy_interleaved(assembly, f"{block}.attn_k", f"{source}.self_attn.k_proj", n_head_kv)
    for target, name in (("attn_v", "v_proj"), ("attn_output", "o_proj")):
        assembly.copy(f"{block}.{target}.weight", f"{source}.self_attn.{name}.weight")
        assembly.copy_present(f"{block}.{target}.bias", f"{source}.self_attn.{name}.bias")


def _experts(assembly: Assembly, config: Config, block: str, source: str) -> None:
    moe, shared = f"{source}.block_sparse_moe", f"{source}.shared_mlp"
    assembly.copy(f"{block}.ffn_norm.weight", f"{source}.post_attention_layernorm.weight")
    assembly.copy(f"{block}.ffn_gate_inp.weight", f"{moe}.router.layer.weight")
    n_expert = config.integer("num_local_experts")
    experts.stacked(assembly, block, f"{moe}.input_linear.weight", f"{moe}.output_linear.weight", n_expert)
    n_shared = config.integer("shared_intermediate_size", 0)
    if n_shared:
        assembly.rows(f"{block}.ffn_gate_shexp.weight", f"{shared}.input_linear.weight", 0, n_shared)
        assembly.rows(f"{block}.ffn_up_shexp.weight", f"{shared}.input_linear.weight", n_shared, n_shared)
        assembly.copy(f"{block}.ffn_down_shexp.weight", f"{shared}.output_linear.weight")


def _metadata(config: Config, n_layer: int) -> Metadata:
    n_head_kv = config.integer("num_key_value_heads")
    metadata = keys.sizes(_ARCH, config, n_layer=n_layer, n_head_kv=n_head_kv)
    metadata |= keys.rotary(_ARCH, config)
    metadata |= keys.experts(
        _ARCH,
        n_expert=config.integer("num_local_experts"),
        n_expert_used=config.integer("num_experts_per_tok"),
    )
    metadata |= {
        f"{_ARCH}.attention.layer_norm_rms_epsilon": f32(config.number("rms_norm_eps")),
        f"{_ARCH}.vocab_size": u32(config.integer("vocab_size")),
        f"{_ARCH}.rope.dimension_count": u32(_head_dim(config)),
    }
    metadata |= {f"{_ARCH}.{key}": f32(config.number(name, 1.0)) for name, key in _MULTIPLIERS.items()}
    n_shared = config.integer("shared_intermediate_size", 0)
    if n_shared:
        metadata[f"{_ARCH}.expert_shared_feed_forward_length"] = u32(n_shared)
    return metadata

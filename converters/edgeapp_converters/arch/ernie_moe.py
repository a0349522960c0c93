"""ERNIE-4.5-MoE. Pure: config and names to a plan.

Tensors of further prediction (`mtp_*`) are left out: llama.cpp does not run them. Dense blocks may hold gate
and up in one matrix, gate first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.errors import UnsupportedCheckpoint
from edgeapp_converters.arch import ends, experts, keys
from edgeapp_converters.arch.assembly import Assembly
from edgeapp_converters.metadata import Metadata, f32, u32
from edgeapp_converters.plan import ModelPlan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeapp_converters.arch.config import Config
    from edgeapp_converters.source import SourceTensor

ARCHITECTURES = ("Ernie4_5_MoeForCausalLM",)

_ARCH = "ernie4_5-moe"


def plan(config: Config, tensors: Mapping[str, SourceTensor]) -> ModelPlan:
    """Plan a GGUF of architecture `ernie4_5-moe`.

    Raise `UnsupportedCheckpoint` when dense layers follow after layers with experts.
    """
    n_layer = config.integer("num_hidden_layers")
    _check(config, n_layer)
    assembly = Assembly(tensors, fp8_block=keys.fp8_block(config))
    ends.ends(assembly, config)
    for layer in range(n_layer):
        _layer(assembly, config, layer)
    assembly.ignore(assembly.starting_with("model.mtp_"))
    return ModelPlan(
        architecture=_ARCH,
        metadata=_metadata(config, n_layer),
        tensors=assembly.finish(),
        n_layer=n_layer,
        n_expert=config.integer("moe_num_experts"),
        n_expert_used=config.integer("moe_k"),
        ignored=tuple(assembly.ignored),
    )


def _check(config: Config, n_layer: int) -> None:
    interval, end = config.integer("moe_layer_interval", 1), config.integer("moe_layer_end_index", -1)
    if interval != 1 or end not in (-1, n_layer - 1):
        raise UnsupportedCheckpoint(
            "llama.cpp loads ERNIE-4.5 only with experts in all layers from the first one with them; here "
            f"moe_layer_interval is {interval} and moe_layer_end_index is {end} of {n_layer} layers."
        )


def _layer(assembly: Assembly, config: Config, layer: int) -> None:
    block, source = f"blk.{layer}", f"model.layers.{layer}"
    assembly.copy(f"{block}.attn_norm.weight", f"{source}.input_layernorm.weight")
    for target, name in (("attn_q", "q"), ("attn_k", "k"), ("attn_v", "v"), ("attn_output", "o")):
        assembly.copy(f"{block}.{target}.weight", f"{source}.self_attn.{name}_proj.weight")
        assembly.copy_present(f"{block}.{target}.bias", f"{source}.self_attn.{name}_proj.bias")
    assembly.copy(f"{block}.ffn_norm.weight", f"{source}.post_attention_layernorm.weight")
    if layer < config.integer("moe_layer_start_index"):
        _dense(assembly, block, f"{source}.mlp")
    else:
        _experts(assembly, config, block, f"{source}.mlp")


def _dense(assembly: Assembly, block: str, source: str) -> None:
    fused = f"{source}.up_gate_proj.weight"
    if fused not in assembly:
        experts.dense(assembly, block, source)
        return
    n_ff = assembly.require_matrix(fused)[0] // 2
    assembly.rows(f"{block}.ffn_gate.weight", fused, 0, n_ff)
    assembly.rows(f"{block}.ffn_up.weight", fused, n_ff, n_ff)
    assembly.copy(f"{block}.ffn_down.weight", f"{source}.down_proj.weight")


def _experts(assembly: Assembly, config: Config, block: str, source: str) -> None:
    assembly.copy(f"{block}.ffn_gate_inp.weight", f"{source}.gate.weight")
    assembly.copy_present(f"{block}.exp_probs_b.bias", f"{source}.moe_statics.e_score_correction_bias")
    experts.routed(assembly, block, f"{source}.experts", config.integer("moe_num_experts"))
    if config.integer("moe_num_shared_experts", 0):
        experts.dense(assembly, block, f"{source}.shared_experts", suffix="_shexp")


def _metadata(config: Config, n_layer: int) -> Metadata:
    n_ff, n_shared = config.integer("moe_intermediate_size"), config.integer("moe_num_shared_experts", 0)
    n_head_kv = config.integer("num_key_value_heads")
    metadata = keys.sizes(_ARCH, config, n_layer=n_layer, n_head_kv=n_head_kv)
    metadata |= keys.rotary(_ARCH, config, theta=5e5)
    metadata |= keys.experts(
        _ARCH, n_expert=config.integer("moe_num_experts"), n_expert_used=config.integer("moe_k"), n_ff=n_ff
    )
    metadata |= {
        f"{_ARCH}.attention.layer_norm_rms_epsilon": f32(config.number("rms_norm_eps")),
        f"{_ARCH}.interleave_moe_layer_step": u32(1),
        f"{_ARCH}.leading_dense_block_count": u32(config.integer("moe_layer_start_index")),
        f"{_ARCH}.expert_shared_count": u32(n_shared),
    }
    if n_shared:
        metadata[f"{_ARCH}.expert_shared_feed_forward_length"] = u32(n_ff * n_shared)
    head_dim = config.optional_integer("head_dim")
    return metadata | ({} if head_dim is None else keys.head_dim(_ARCH, head_dim))

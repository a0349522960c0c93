"""GLM-4.5, 4.6 and their Air versions. Pure: config and names to a plan.

Layers behind the last one predict further tokens (MTP). They are kept, because llama.cpp can draft with them;
a checkpoint that was saved without them converts too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp_converters.arch import ends, experts, keys, prediction
from edgeapp_converters.arch.assembly import Assembly
from edgeapp_converters.metadata import Metadata, boolean, f32, u32
from edgeapp_converters.plan import ModelPlan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeapp_converters.arch.config import Config
    from edgeapp_converters.source import SourceTensor

ARCHITECTURES = ("Glm4MoeForCausalLM",)

_ARCH = "glm4moe"
_PARTIAL_ROTARY = 0.5  # transformers, Glm4MoeConfig, for configurations that do not say


def plan(config: Config, tensors: Mapping[str, SourceTensor]) -> ModelPlan:
    """Plan a GGUF of architecture `glm4moe`."""
    assembly = Assembly(tensors, fp8_block=keys.fp8_block(config))
    n_layer = config.integer("num_hidden_layers")
    behind = prediction.names_behind(assembly, n_layer)
    n_predict = config.integer("num_nextn_predict_layers", 0) if behind else 0
    ends.ends(assembly, config)
    for layer in range(n_layer + n_predict):
        _layer(assembly, config, layer)
    for layer in range(n_layer, n_layer + n_predict):
        prediction.copy_nextn(assembly, f"blk.{layer}", f"model.layers.{layer}")
    return ModelPlan(
        architecture=_ARCH,
        metadata=_metadata(config, n_layer, n_predict),
        tensors=assembly.finish(),
        n_layer=n_layer + n_predict,
        n_expert=config.integer("n_routed_experts"),
        n_expert_used=config.integer("num_experts_per_tok"),
        ignored=tuple(assembly.ignored),
    )


def _layer(assembly: Assembly, config: Config, layer: int) -> None:
    block, source = f"blk.{layer}", f"model.layers.{layer}"
    assembly.copy(f"{block}.attn_norm.weight", f"{source}.input_layernorm.weight")
    assembly.copy(f"{block}.post_attention_norm.weight", f"{source}.post_attention_layernorm.weight")
    _attention(assembly, block, f"{source}.self_attn")
    if layer < config.integer("first_k_dense_replace"):
        experts.dense(assembly, block, f"{source}.mlp")
        return
    assembly.copy(f"{block}.ffn_gate_inp.weight", f"{source}.mlp.gate.weight")
    assembly.copy(f"{block}.exp_probs_b.bias", f"{source}.mlp.gate.e_score_correction_bias")
    experts.routed(assembly, block, f"{source}.mlp.experts", config.integer("n_routed_experts"))
    experts.dense(assembly, block, f"{source}.mlp.shared_experts", suffix="_shexp")


def _attention(assembly: Assembly, block: str, source: str) -> None:
    for name in ("q", "k", "v"):
        assembly.copy(f"{block}.attn_{name}.weight", f"{source}.{name}_proj.weight")
        assembly.copy_present(f"{block}.attn_{name}.bias", f"{source}.{name}_proj.bias")
    for name in ("q", "k"):
        assembly.copy_present(f"{block}.attn_{name}_norm.weight", f"{source}.{name}_norm.weight")
    assembly.copy(f"{block}.attn_output.weight", f"{source}.o_proj.weight")


def _metadata(config: Config, n_layer: int, n_predict: int) -> Metadata:
    n_head_kv = config.integer("num_key_value_heads")
    metadata = keys.sizes(_ARCH, config, n_layer=n_layer + n_predict, n_head_kv=n_head_kv)
    metadata |= keys.rotary(_ARCH, config)
    metadata[f"{_ARCH}.attention.layer_norm_rms_epsilon"] = f32(config.number("rms_norm_eps"))
    if n_predict:
        metadata[f"{_ARCH}.nextn_predict_layers"] = u32(n_predict)
    return metadata | _head(config) | _routing(config)


def _head(config: Config) -> Metadata:
    said = config.optional_integer("head_dim")
    head_dim = said or config.integer("hidden_size") // keys.positive(config, "num_attention_heads")
    n_rotated = keys.rotated(config, head_dim, _PARTIAL_ROTARY)
    metadata: Metadata = {f"{_ARCH}.rope.dimension_count": u32(n_rotated)}
    return metadata | ({} if said is None else keys.head_dim(_ARCH, said))


def _routing(config: Config) -> Metadata:
    metadata = keys.experts(
        _ARCH,
        n_expert=config.integer("n_routed_experts"),
        n_expert_used=config.integer("num_experts_per_tok"),
        n_ff=config.integer("moe_intermediate_size"),
    )
    metadata |= keys.expert_groups(_ARCH, config)
    return metadata | {
        f"{_ARCH}.leading_dense_block_count": u32(config.integer("first_k_dense_replace")),
        f"{_ARCH}.expert_shared_count": u32(config.integer("n_shared_experts")),
        f"{_ARCH}.expert_gating_func": u32(keys.SIGMOID),
        f"{_ARCH}.expert_weights_scale": f32(config.number("routed_scaling_factor", 1.0)),
        f"{_ARCH}.expert_weights_norm": boolean(config.optional_flag("norm_topk_prob") is not False),
    }

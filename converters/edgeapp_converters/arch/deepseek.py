"""DeepSeek-V2 and V3, and what shares their layout: Moonlight, Kimi-K2. Pure: config and names to a plan.

Attention is latent (MLA): llama.cpp absorbs `kv_b_proj` into queries and outputs, so it is split by head into
`attn_k_b`, transposed, and `attn_v_b`, and the model is run as one with a single key-value head.
Layers behind the last one predict further tokens (MTP); llama.cpp does not run those of DeepSeek.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.errors import InvalidCheckpoint, UnsupportedCheckpoint
from edgeapp_converters.arch import ends, experts, keys, prediction
from edgeapp_converters.arch.assembly import Assembly
from edgeapp_converters.metadata import Metadata, boolean, f32, u32
from edgeapp_converters.plan import ModelPlan, Part

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeapp_converters.arch.config import Config
    from edgeapp_converters.source import SourceTensor

ARCHITECTURES = ("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM")

_ARCH = "deepseek2"
_GROUPS_RANKED_OTHERWISE = (
    "llama.cpp ranks groups of experts by their two best experts, this model was trained with the single "
    "best: a few tokens will be routed differently."
)
_PLAIN_QUERY_LAYERS = (26, 27)
"""With so many layers llama.cpp expects plain queries; else it needs their rank, zero for plain ones
(src/models/deepseek2.cpp, is_lite)."""


def plan(config: Config, tensors: Mapping[str, SourceTensor]) -> ModelPlan:
    """Plan a GGUF of architecture `deepseek2`.

    Raise `InvalidCheckpoint` for a V3 configuration without `scoring_func`, `UnsupportedCheckpoint` for
    rotary dimensions in halves.
    """
    return assemble(config, tensors, gating=_gating(config), keeps_prediction=False)


def assemble(
    config: Config, tensors: Mapping[str, SourceTensor], *, gating: int, keeps_prediction: bool
) -> ModelPlan:
    """Plan a model of this layout, with or without the layers that predict further tokens."""
    _check(config)
    n_layer = config.integer("num_hidden_layers")
    assembly = Assembly(tensors, fp8_block=keys.fp8_block(config))
    ends.ends(assembly, config)
    behind = prediction.names_behind(assembly, n_layer)
    n_predict = config.integer("num_nextn_predict_layers", 0) if keeps_prediction and behind else 0
    for layer in range(n_layer + n_predict):
        _layer(assembly, config, layer)
    for layer in range(n_layer, n_layer + n_predict):
        prediction.copy_nextn(assembly, f"blk.{layer}", f"model.layers.{layer}")
    if not n_predict:
        assembly.ignore(behind)
    return ModelPlan(
        architecture=_ARCH,
        metadata=_metadata(config, gating, n_layer, n_predict),
        tensors=assembly.finish(),
        n_layer=n_layer + n_predict,
        n_expert=config.integer("n_routed_experts"),
        n_expert_used=config.integer("num_experts_per_tok"),
        ignored=tuple(assembly.ignored),
        notes=_notes(config),
    )


def _check(config: Config) -> None:
    if config.optional_flag("rope_interleave") is False:
        raise UnsupportedCheckpoint(
            "llama.cpp takes DeepSeek's rotary dimensions as interleaved, but here they are stored in halves."
        )
    rope = keys.rope_parameters(config)
    scale = rope.get("mscale_all_dim")
    if scale and rope.get("mscale") != scale:
        raise UnsupportedCheckpoint(
            "llama.cpp runs DeepSeek only with equal mscale and mscale_all_dim in rope_scaling, not with "
            f"{rope.get('mscale')} and {scale}."
        )


def _notes(config: Config) -> tuple[str, ...]:
    if config.optional_text("topk_method") != "group_limited_greedy":
        return ()
    return (_GROUPS_RANKED_OTHERWISE,)


def _layer(assembly: Assembly, config: Config, layer: int) -> None:
    block, source = f"blk.{layer}", f"model.layers.{layer}"
    assembly.copy(f"{block}.attn_norm.weight", f"{source}.input_layernorm.weight")
    assembly.copy(f"{block}.ffn_norm.weight", f"{source}.post_attention_layernorm.weight")
    _attention(assembly, config, block, f"{source}.self_attn")
    if layer < _n_dense(config):
        experts.dense(assembly, block, f"{source}.mlp")
        return
    assembly.copy(f"{block}.ffn_gate_inp.weight", f"{source}.mlp.gate.weight")
    assembly.copy_present(f"{block}.exp_probs_b.bias", f"{source}.mlp.gate.e_score_correction_bias")
    experts.routed(assembly, block, f"{source}.mlp.experts", config.integer("n_routed_experts"))
    experts.dense(assembly, block, f"{source}.mlp.shared_experts", suffix="_shexp")


def _n_dense(config: Config) -> int:
    """Leading layers without experts; transformers 5 may save the kind of every layer instead."""
    kinds = config.texts("mlp_layer_types")
    listed = kinds.index("sparse") if "sparse" in kinds else len(kinds)
    return config.integer("first_k_dense_replace", listed)


def _attention(assembly: Assembly, config: Config, block: str, source: str) -> None:
    if config.optional_integer("q_lora_rank") is None:
        assembly.copy(f"{block}.attn_q.weight", f"{source}.q_proj.weight")
    else:
        assembly.copy(f"{block}.attn_q_a.weight", f"{source}.q_a_proj.weight")
        assembly.copy(f"{block}.attn_q_a_norm.weight", f"{source}.q_a_layernorm.weight")
        assembly.copy(f"{block}.attn_q_b.weight", f"{source}.q_b_proj.weight")
    assembly.copy(f"{block}.attn_kv_a_mqa.weight", f"{source}.kv_a_proj_with_mqa.weight")
    assembly.copy(f"{block}.attn_kv_a_norm.weight", f"{source}.kv_a_layernorm.weight")
    _split_by_head(assembly, config, block, f"{source}.kv_b_proj.weight")
    assembly.copy(f"{block}.attn_output.weight", f"{source}.o_proj.weight")


def _split_by_head(assembly: Assembly, config: Config, block: str, source: str) -> None:
    """`kv_b_proj` [n_head (nope + v), rank]: keys to [n_head, rank, nope], values to [n_head, v, rank]."""
    n_head, rank = config.integer("num_attention_heads"), config.integer("kv_lora_rank")
    nope, v = config.integer("qk_nope_head_dim"), config.integer("v_head_dim")
    assembly.require_shape(source, (n_head * (nope + v), rank))

    def key(head: int) -> Part:
        return assembly.part(
            source,
            target_row=head * rank,
            n_rows=rank,
            transposed=True,
            source_columns=rank,
            first_column=head * (nope + v),
            expert=head,
        )

    def value(head: int) -> Part:
        first_row = head * (nope + v) + nope
        return assembly.part(source, target_row=head * v, first_row=first_row, n_rows=v, expert=head)

    heads = range(n_head)
    assembly.add(f"{block}.attn_k_b.weight", (n_head, rank, nope), [key(head) for head in heads])
    assembly.add(f"{block}.attn_v_b.weight", (n_head, v, rank), [value(head) for head in heads])


def _metadata(config: Config, gating: int, n_layer: int, n_predict: int) -> Metadata:
    metadata = keys.sizes(_ARCH, config, n_layer=n_layer + n_predict, n_head_kv=1)
    metadata |= keys.rotary(_ARCH, config)
    metadata[f"{_ARCH}.attention.layer_norm_rms_epsilon"] = f32(config.number("rms_norm_eps", 1e-6))
    metadata |= keys.experts(
        _ARCH,
        n_expert=config.integer("n_routed_experts"),
        n_expert_used=config.integer("num_experts_per_tok"),
        n_ff=config.integer("moe_intermediate_size"),
    )
    if n_predict:
        metadata[f"{_ARCH}.nextn_predict_layers"] = u32(n_predict)
    return metadata | _routing(config, gating) | _latent_attention(config, n_layer)


def _routing(config: Config, gating: int) -> Metadata:
    metadata = {
        f"{_ARCH}.vocab_size": u32(config.integer("vocab_size")),
        f"{_ARCH}.leading_dense_block_count": u32(_n_dense(config)),
        f"{_ARCH}.expert_shared_count": u32(config.integer("n_shared_experts", 0)),
        f"{_ARCH}.expert_gating_func": u32(gating),
        f"{_ARCH}.expert_weights_scale": f32(config.number("routed_scaling_factor", 1.0)),
    }
    if config.optional_flag("norm_topk_prob"):
        metadata[f"{_ARCH}.expert_weights_norm"] = boolean(True)
    return metadata | keys.expert_groups(_ARCH, config)


def _gating(config: Config) -> int:
    """Softmax or sigmoid. V2 has only softmax; V3's own code knows both, so there it must be said."""
    said = config.optional_text("scoring_func")
    if said is None and config.architecture == "DeepseekV3ForCausalLM":
        raise InvalidCheckpoint(
            "config.json lacks `scoring_func`, without which llama.cpp would score experts by softmax and "
            "answer nonsense; transformers 5 drops it when it saves a model.",
            hint='Add the value of the original model to config.json; for V3: "scoring_func": "sigmoid".',
        )
    return keys.gating(said or "softmax")


def _latent_attention(config: Config, n_layer: int) -> Metadata:
    rank, rope = config.integer("kv_lora_rank"), config.integer("qk_rope_head_dim")
    metadata = {
        f"{_ARCH}.attention.kv_lora_rank": u32(rank),
        f"{_ARCH}.attention.key_length": u32(rank + rope),
        f"{_ARCH}.attention.value_length": u32(rank),
        f"{_ARCH}.attention.key_length_mla": u32(config.integer("qk_nope_head_dim") + rope),
        f"{_ARCH}.attention.value_length_mla": u32(config.integer("v_head_dim")),
        f"{_ARCH}.rope.dimension_count": u32(rope),
    }
    q_rank = config.optional_integer("q_lora_rank")
    if q_rank is not None or n_layer not in _PLAIN_QUERY_LAYERS:
        metadata[f"{_ARCH}.attention.q_lora_rank"] = u32(q_rank or 0)
    scale = keys.rope_parameters(config).get("mscale_all_dim")
    if scale is not None:
        # Times 0.1 for old files' sake; llama.cpp divides again (src/models/deepseek2.cpp).
        metadata[f"{_ARCH}.rope.scaling.yarn_log_multiplier"] = f32(0.1 * float(scale))
    return metadata

"""Gemma-4 with experts, text part. Pure: config and names to a plan.

Every layer has a dense block beside its experts. Layers of full attention have larger heads, fewer of them
for keys, and no value weights: there the keys serve as values. Gate and up stay fused, as llama.cpp wants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeapp.errors import InvalidCheckpoint, UnsupportedCheckpoint
from edgeapp_converters.arch import ends, experts, keys
from edgeapp_converters.arch.assembly import Assembly
from edgeapp_converters.arch.config import Config
from edgeapp_converters.metadata import Metadata, booleans, f32, u32
from edgeapp_converters.plan import ModelPlan

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from edgeapp_converters.source import SourceTensor

ARCHITECTURES = ("Gemma4ForConditionalGeneration", "Gemma4ForCausalLM")

_ARCH = "gemma4"
_NEVER = 1e30  # llama.cpp, conversion/gemma.py: a rotary factor so large that the dimension stands still
_OTHER_MODALITIES = ("model.vision_tower.", "model.audio_tower.", "model.embed_vision.", "model.embed_audio.")
_NORMS = {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "pre_ffw_norm_2": "pre_feedforward_layernorm_2",
    "post_ffw_norm": "post_feedforward_layernorm",
    "post_ffw_norm_1": "post_feedforward_layernorm_1",
    "post_ffw_norm_2": "post_feedforward_layernorm_2",
}


def plan(config: Config, tensors: Mapping[str, SourceTensor]) -> ModelPlan:
    """Plan a GGUF of architecture `gemma4`. Raise `UnsupportedCheckpoint` for the members without experts."""
    config = config.text()
    _check(config)
    sliding = _sliding_layers(config)
    assembly = Assembly(tensors, fp8_block=keys.fp8_block(config))
    model = "model.language_model" if assembly.starting_with("model.language_model.") else "model"
    ends.ends(assembly, config, model=model)
    for layer, is_sliding in enumerate(sliding):
        if not is_sliding:
            assembly.require_shape(
                f"{model}.layers.{layer}.self_attn.q_norm.weight", (_full_head_dim(config),)
            )
        has_values = is_sliding or not config.optional_flag("attention_k_eq_v")
        _attention(assembly, f"blk.{layer}", f"{model}.layers.{layer}", has_values=has_values)
        _feed_forward(assembly, config, f"blk.{layer}", f"{model}.layers.{layer}")
    assembly.values("rope_freqs.weight", _rotary_factors(config))
    others = [name for prefix in _OTHER_MODALITIES for name in assembly.starting_with(prefix)]
    assembly.ignore(others)
    return ModelPlan(
        architecture=_ARCH,
        metadata=_sizes(config, sliding) | _heads(config, sliding) | _rotary(config),
        tensors=assembly.finish(),
        n_layer=len(sliding),
        n_expert=config.integer("num_experts"),
        n_expert_used=config.integer("top_k_experts"),
        ignored=tuple(assembly.ignored),
        notes=("The image and sound parts are left out: the file answers text only.",) if others else (),
    )


def _check(config: Config) -> None:
    if not config.optional_flag("enable_moe_block") or config.integer("hidden_size_per_layer_input", 0):
        raise UnsupportedCheckpoint(
            "Of Gemma-4, only the models with experts are converted natively.",
            hint="Try --bridge, which runs llama.cpp's own converter.",
        )
    if config.integer("num_kv_shared_layers", 0) or config.optional_flag("use_double_wide_mlp"):
        raise UnsupportedCheckpoint(
            "Gemma-4 with experts and with layers that share keys and values is not converted natively.",
            hint="Try --bridge, which runs llama.cpp's own converter.",
        )


def _sliding_layers(config: Config) -> list[bool]:
    kinds, n_layer = config.texts("layer_types"), config.integer("num_hidden_layers")
    if len(kinds) != n_layer or set(kinds) - {"sliding_attention", "full_attention"}:
        raise InvalidCheckpoint(
            f"`layer_types` in config.json must say for each of the {n_layer} layers whether it is "
            "`sliding_attention` or `full_attention`."
        )
    return [kind == "sliding_attention" for kind in kinds]


def _attention(assembly: Assembly, block: str, source: str, *, has_values: bool) -> None:
    names = {"attn_q": "q_proj", "attn_k": "k_proj", "attn_output": "o_proj"}
    names |= {"attn_v": "v_proj"} if has_values else {}
    names |= {"attn_q_norm": "q_norm", "attn_k_norm": "k_norm"}
    for target, name in names.items():
        assembly.copy(f"{block}.{target}.weight", f"{source}.self_attn.{name}.weight")


def _feed_forward(assembly: Assembly, config: Config, block: str, source: str) -> None:
    for target, name in _NORMS.items():
        assembly.copy(f"{block}.{target}.weight", f"{source}.{name}.weight")
    assembly.copy(f"{block}.layer_output_scale.weight", f"{source}.layer_scalar")
    experts.dense(assembly, block, f"{source}.mlp")
    assembly.copy(f"{block}.ffn_gate_inp.weight", f"{source}.router.proj.weight")
    assembly.copy(f"{block}.ffn_gate_inp.scale", f"{source}.router.scale")
    assembly.copy(f"{block}.ffn_down_exps.scale", f"{source}.router.per_expert_scale")
    n_expert, n_embd = config.integer("num_experts"), config.integer("hidden_size")
    n_ff = config.integer("moe_intermediate_size")
    for target, name, shape in (
        ("ffn_gate_up_exps", "gate_up_proj", (n_expert, 2 * n_ff, n_embd)),
        ("ffn_down_exps", "down_proj", (n_expert, n_embd, n_ff)),
    ):
        assembly.require_shape(f"{source}.experts.{name}", shape)
        assembly.unstack(f"{block}.{target}.weight", f"{source}.experts.{name}", 0, shape[1])


def _full_head_dim(config: Config) -> int:
    """Of layers of full attention; transformers 5 saves it layer by layer."""
    return config.optional_integer("global_head_dim") or _of_full_layer(config, "head_dim")


def _of_full_layer(config: Config, name: str) -> int:
    layers = Config(config.mapping("per_layer_config"))
    for layer, kind in enumerate(config.texts("layer_types")):
        value = Config(layers.mapping(str(layer))).optional_integer(name)
        if kind == "full_attention" and value is not None:
            return value
    raise InvalidCheckpoint(f"config.json does not say the {name} of layers of full attention.")


def _rope(config: Config, kind: str) -> Config:
    return Config(Config(config.mapping("rope_parameters")).mapping(kind))


def _rotary_factors(config: Config) -> npt.NDArray[np.float32]:
    """For each pair of a full layer's head, 1 where it turns and a huge number where it stands still."""
    settings, head_dim = _rope(config, "full_attention"), _full_head_dim(config)
    share = settings.number("partial_rotary_factor")
    if settings.optional_text("rope_type") != "proportional" or not 0 < share <= 1:
        raise UnsupportedCheckpoint("llama.cpp runs Gemma-4 only with proportional rotary embedding.")
    turning = int(head_dim * share / 2)
    return np.array([1.0] * turning + [_NEVER] * (head_dim // 2 - turning), np.float32)


def _sizes(config: Config, sliding: list[bool]) -> Metadata:
    n_head_kv: int | list[int] = config.integer("num_key_value_heads")
    if config.optional_flag("attention_k_eq_v"):
        full = config.optional_integer("num_global_key_value_heads") or _of_full_layer(
            config, "num_key_value_heads"
        )
        n_head_kv = [config.integer("num_key_value_heads") if is_sliding else full for is_sliding in sliding]
    metadata = keys.sizes(_ARCH, config, n_layer=len(sliding), n_head_kv=n_head_kv)
    metadata |= keys.experts(
        _ARCH,
        n_expert=config.integer("num_experts"),
        n_expert_used=config.integer("top_k_experts"),
        n_ff=config.integer("moe_intermediate_size"),
    )
    cap = config.optional_number("final_logit_softcapping")
    if cap is not None:
        metadata[f"{_ARCH}.final_logit_softcapping"] = f32(cap)
    return metadata


def _heads(config: Config, sliding: list[bool]) -> Metadata:
    full, window = _full_head_dim(config), config.integer("head_dim")
    return keys.head_dim(_ARCH, full) | {
        f"{_ARCH}.attention.key_length_swa": u32(window),
        f"{_ARCH}.attention.value_length_swa": u32(window),
        f"{_ARCH}.attention.layer_norm_rms_epsilon": f32(config.number("rms_norm_eps")),
        f"{_ARCH}.attention.sliding_window": u32(config.integer("sliding_window")),
        f"{_ARCH}.attention.sliding_window_pattern": booleans(sliding),
        f"{_ARCH}.attention.shared_kv_layers": u32(0),
        f"{_ARCH}.embedding_length_per_layer_input": u32(0),
    }


def _rotary(config: Config) -> Metadata:
    """Layers of full attention turn all dimensions, most of them by a factor of nothing."""
    return {
        f"{_ARCH}.rope.dimension_count": u32(_full_head_dim(config)),
        f"{_ARCH}.rope.dimension_count_swa": u32(config.integer("head_dim")),
        f"{_ARCH}.rope.freq_base": f32(_rope(config, "full_attention").number("rope_theta")),
        f"{_ARCH}.rope.freq_base_swa": f32(_rope(config, "sliding_attention").number("rope_theta")),
    }

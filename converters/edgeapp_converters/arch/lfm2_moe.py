"""LFM2-MoE. Pure: config and names to a plan.

Most layers mix tokens by a short convolution instead of attention; llama.cpp recognises them by a layer
without key-value heads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.errors import InvalidCheckpoint, UnsupportedCheckpoint
from edgeapp_converters.arch import ends, experts, keys
from edgeapp_converters.arch.assembly import Assembly
from edgeapp_converters.metadata import Metadata, f32, u32
from edgeapp_converters.plan import ModelPlan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeapp_converters.arch.config import Config
    from edgeapp_converters.source import SourceTensor

ARCHITECTURES = ("Lfm2MoeForCausalLM",)

_ARCH = "lfm2moe"


def plan(config: Config, tensors: Mapping[str, SourceTensor]) -> ModelPlan:
    """Plan a GGUF of architecture `lfm2moe`. Raise `UnsupportedCheckpoint` for what llama.cpp has fixed."""
    _check(config)
    layer_types = _layer_types(config)
    assembly = Assembly(tensors, fp8_block=keys.fp8_block(config))
    # llama.cpp loads the last norm under the name of the embedding's (src/llama-arch.cpp, OUTPUT_NORM_LFM2).
    ends.ends(assembly, config, norm="embedding_norm", norm_target="token_embd_norm")
    for layer, kind in enumerate(layer_types):
        _layer(assembly, config, layer, kind)
    return ModelPlan(
        architecture=_ARCH,
        metadata=_metadata(config, layer_types),
        tensors=assembly.finish(),
        n_layer=len(layer_types),
        n_expert=config.integer("num_experts"),
        n_expert_used=config.integer("num_experts_per_tok"),
        ignored=tuple(assembly.ignored),
    )


def _check(config: Config) -> None:
    fixed = {"norm_topk_prob": True, "use_expert_bias": True, "routed_scaling_factor": 1.0}
    for name, value in fixed.items():
        said = config.optional_number(name)
        if said is not None and said != value:
            raise UnsupportedCheckpoint(f"llama.cpp runs LFM2-MoE only with {name} = {value}, not {said}.")


def _layer_types(config: Config) -> list[str]:
    kinds = config.texts("layer_types")
    n_layer = config.integer("num_hidden_layers")
    if len(kinds) != n_layer or set(kinds) - {"conv", "full_attention"}:
        raise InvalidCheckpoint(
            f"config.json must say for each of the {n_layer} layers in `layer_types` whether it is `conv` or "
            "`full_attention`."
        )
    return kinds


def _layer(assembly: Assembly, config: Config, layer: int, kind: str) -> None:
    block, source = f"blk.{layer}", f"model.layers.{layer}"
    assembly.copy(f"{block}.attn_norm.weight", f"{source}.operator_norm.weight")
    if kind == "conv":
        _convolution(assembly, block, f"{source}.conv")
    else:
        _attention(assembly, block, f"{source}.self_attn")
    assembly.copy(f"{block}.ffn_norm.weight", f"{source}.ffn_norm.weight")
    ffn = f"{source}.feed_forward"
    if layer < config.integer("num_dense_layers"):
        experts.dense(assembly, block, ffn, names=experts.META_NAMES)
        return
    assembly.copy(f"{block}.ffn_gate_inp.weight", f"{ffn}.gate.weight")
    assembly.copy(f"{block}.exp_probs_b.bias", f"{ffn}.expert_bias")
    n_expert = config.integer("num_experts")
    experts.routed(assembly, block, f"{ffn}.experts", n_expert, names=experts.META_NAMES)


def _convolution(assembly: Assembly, block: str, source: str) -> None:
    """The kernel [n_embd, 1, n_taps] loses its middle dimension."""
    n_embd, _, n_taps = assembly.require_dimensions(f"{source}.conv.weight", 3)
    assembly.copy(f"{block}.shortconv.conv.weight", f"{source}.conv.weight", (n_embd, n_taps))
    assembly.copy(f"{block}.shortconv.in_proj.weight", f"{source}.in_proj.weight")
    assembly.copy(f"{block}.shortconv.out_proj.weight", f"{source}.out_proj.weight")


def _attention(assembly: Assembly, block: str, source: str) -> None:
    for name in ("q", "k", "v"):
        assembly.copy(f"{block}.attn_{name}.weight", f"{source}.{name}_proj.weight")
    for name in ("q", "k"):
        assembly.copy(f"{block}.attn_{name}_norm.weight", f"{source}.{name}_layernorm.weight")
    assembly.copy(f"{block}.attn_output.weight", f"{source}.out_proj.weight")


def _metadata(config: Config, layer_types: list[str]) -> Metadata:
    n_head_kv = [0 if kind == "conv" else config.integer("num_key_value_heads") for kind in layer_types]
    metadata = keys.sizes(_ARCH, config, n_layer=len(layer_types), n_head_kv=n_head_kv)
    metadata |= keys.rotary(_ARCH, config, theta=1e6)
    metadata |= keys.experts(
        _ARCH,
        n_expert=config.integer("num_experts"),
        n_expert_used=config.integer("num_experts_per_tok"),
        n_ff=config.integer("moe_intermediate_size"),
    )
    return metadata | {
        f"{_ARCH}.attention.layer_norm_rms_epsilon": f32(config.number("norm_eps")),
        f"{_ARCH}.leading_dense_block_count": u32(config.integer("num_dense_layers")),
        f"{_ARCH}.expert_gating_func": u32(keys.SIGMOID),
        f"{_ARCH}.vocab_size": u32(config.integer("vocab_size")),
        f"{_ARCH}.shortconv.l_cache": u32(config.integer("conv_L_cache")),
    }

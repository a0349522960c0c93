"""Gemma-3, text part, dense. Pure: config and names to a plan.

Its RMSNorm gains are stored around zero, so 1 is added. Five layers of six see only a sliding window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.errors import UnsupportedCheckpoint
from edgeapp_converters.arch import ends, experts, keys, plain_attention
from edgeapp_converters.arch.assembly import Assembly
from edgeapp_converters.metadata import Metadata, f32, string, u32
from edgeapp_converters.plan import ElementMap, ModelPlan

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from edgeapp_converters.arch.config import Config
    from edgeapp_converters.source import SourceTensor

ARCHITECTURES = ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration")

_ARCH = "gemma3"
_OTHER_MODALITIES = (
    *("vision_tower.", "multi_modal_projector."),
    *("model.vision_tower.", "model.multi_modal_projector."),
)
_SLIDING_EVERY = 6  # llama.cpp, src/models/gemma3.cpp: the sixth layer attends to everything


def plan(config: Config, tensors: Mapping[str, SourceTensor]) -> ModelPlan:
    """Plan a GGUF of architecture `gemma3`. Raise `UnsupportedCheckpoint` for what llama.cpp has fixed."""
    config = config.text()
    n_layer = config.integer("num_hidden_layers")
    _check(config, n_layer)
    assembly = Assembly(tensors, fp8_block=keys.fp8_block(config))
    model = _prefix(assembly)
    plus_one = ElementMap.ADD_ONE
    ends.ends(assembly, config, model=model, norm_map=plus_one)
    for layer in range(n_layer):
        block, source = f"blk.{layer}", f"{model}.layers.{layer}"
        plain_attention.copy(assembly, block, source, ffn_norm="pre_feedforward_layernorm", norm_map=plus_one)
        for target, name in (
            ("post_attention_norm", "post_attention_layernorm"),
            ("post_ffw_norm", "post_feedforward_layernorm"),
        ):
            assembly.copy(f"{block}.{target}.weight", f"{source}.{name}.weight", element_map=plus_one)
        experts.dense(assembly, block, f"{source}.mlp")
    assembly.ignore(name for prefix in _OTHER_MODALITIES for name in assembly.starting_with(prefix))
    return ModelPlan(
        architecture=_ARCH,
        metadata=_metadata(config, n_layer),
        tensors=assembly.finish(),
        n_layer=n_layer,
        ignored=tuple(assembly.ignored),
    )


def _prefix(assembly: Assembly) -> str:
    for prefix in ("language_model.model", "model.language_model"):
        if assembly.starting_with(f"{prefix}."):
            return prefix
    return "model"


def _check(config: Config, n_layer: int) -> None:
    if config.optional_number("attn_logit_softcapping") is not None:
        raise UnsupportedCheckpoint("llama.cpp runs Gemma-3 only without attn_logit_softcapping.")
    expected = [
        "full_attention" if (layer + 1) % _SLIDING_EVERY == 0 else "sliding_attention"
        for layer in range(n_layer)
    ]
    if (config.texts("layer_types") or expected) != expected:
        raise UnsupportedCheckpoint(
            "llama.cpp runs Gemma-3 only with full attention in every sixth layer and none between."
        )


def _metadata(config: Config, n_layer: int) -> Metadata:
    n_head_kv = config.integer("num_key_value_heads", 4)
    metadata = keys.sizes(_ARCH, config, n_layer=n_layer, n_head_kv=n_head_kv)
    metadata |= _rotary(config)
    metadata |= keys.head_dim(_ARCH, config.integer("head_dim", 256))
    metadata |= {
        f"{_ARCH}.attention.layer_norm_rms_epsilon": f32(config.number("rms_norm_eps", 1e-6)),
        f"{_ARCH}.attention.sliding_window": u32(config.integer("sliding_window")),
    }
    if (cap := config.optional_number("final_logit_softcapping")) is not None:
        metadata[f"{_ARCH}.final_logit_softcapping"] = f32(cap)
    return metadata


def _rotary(config: Config) -> Metadata:
    """One base for the layers that see everything, another for those with a window."""
    rope = keys.rope_parameters(config)
    full: dict[str, Any] = rope.get("full_attention", rope)
    local = rope.get("sliding_attention", {}).get(
        "rope_theta", config.optional_number("rope_local_base_freq")
    )
    metadata: Metadata = {f"{_ARCH}.rope.freq_base": f32(float(full.get("rope_theta", 1e6)))}
    if local is not None:
        metadata[f"{_ARCH}.rope.freq_base_swa"] = f32(float(local))
    match full.get("rope_type", "default"):
        case "default":
            return metadata
        case "linear":
            metadata[f"{_ARCH}.rope.scaling.type"] = string("linear")
            metadata[f"{_ARCH}.rope.scaling.factor"] = f32(float(full["factor"]))
            return metadata
        case _:
            raise UnsupportedCheckpoint("This rotary scaling is not one of Gemma-3's.", hint="Try --bridge.")

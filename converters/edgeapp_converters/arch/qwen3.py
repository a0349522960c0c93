"""Qwen3, dense. Pure: config and names to a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp_converters.arch import ends, experts, keys, plain_attention
from edgeapp_converters.arch.assembly import Assembly
from edgeapp_converters.metadata import f32
from edgeapp_converters.plan import ModelPlan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeapp_converters.arch.config import Config
    from edgeapp_converters.source import SourceTensor

ARCHITECTURES = ("Qwen3ForCausalLM",)

_ARCH = "qwen3"


def plan(config: Config, tensors: Mapping[str, SourceTensor]) -> ModelPlan:
    """Plan a GGUF of architecture `qwen3`."""
    n_layer = config.integer("num_hidden_layers")
    assembly = Assembly(tensors, fp8_block=keys.fp8_block(config))
    ends.ends(assembly, config)
    for layer in range(n_layer):
        plain_attention.copy(assembly, f"blk.{layer}", f"model.layers.{layer}")
        experts.dense(assembly, f"blk.{layer}", f"model.layers.{layer}.mlp")
    metadata = keys.sizes(_ARCH, config, n_layer=n_layer, n_head_kv=plain_attention.n_head_kv(config))
    metadata |= keys.rotary(_ARCH, config)
    metadata |= keys.head_dim(_ARCH, config.integer("head_dim"))
    metadata[f"{_ARCH}.attention.layer_norm_rms_epsilon"] = f32(config.number("rms_norm_eps"))
    return ModelPlan(
        architecture=_ARCH,
        metadata=metadata,
        tensors=assembly.finish(),
        n_layer=n_layer,
        ignored=tuple(assembly.ignored),
    )

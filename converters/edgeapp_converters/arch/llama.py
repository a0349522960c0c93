"""LLaMA and what shares its graph: Mistral, SmolLM, dense. Pure: config and names to a plan.

Mixtral differs in the feed-forward block alone and passes its own.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from edgeapp.errors import InvalidCheckpoint
from edgeapp_converters.arch import ends, experts, keys
from edgeapp_converters.arch.assembly import Assembly
from edgeapp_converters.arch.permutation import copy_interleaved
from edgeapp_converters.metadata import Metadata, f32, u32
from edgeapp_converters.plan import ModelPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    import numpy.typing as npt

    from edgeapp_converters.arch.config import Config
    from edgeapp_converters.source import SourceTensor

    FeedForward = Callable[[Assembly, str, str], None]

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM")

_ARCH = "llama"
_LLAMA3 = "llama3"


def plan(config: Config, tensors: Mapping[str, SourceTensor]) -> ModelPlan:
    """Plan a dense GGUF of architecture `llama`."""

    def feed_forward(assembly: Assembly, block: str, source: str) -> None:
        experts.dense(assembly, block, f"{source}.mlp")

    return plan_llama(config, tensors, feed_forward=feed_forward)


def plan_llama(
    config: Config,
    tensors: Mapping[str, SourceTensor],
    *,
    feed_forward: FeedForward,
    n_expert: int = 0,
    n_expert_used: int = 0,
) -> ModelPlan:
    """Plan a GGUF of architecture `llama`; `feed_forward(assembly, block, source)` adds that of a layer."""
    n_layer = config.integer("num_hidden_layers")
    assembly = Assembly(tensors, fp8_block=keys.fp8_block(config))
    ends.ends(assembly, config)
    rope = keys.rope_parameters(config)
    if rope["rope_type"] == _LLAMA3:
        assembly.values("rope_freqs.weight", _checked_factors(rope, _head_dim(config)))
    for layer in range(n_layer):
        _attention(assembly, config, f"blk.{layer}", f"model.layers.{layer}")
        feed_forward(assembly, f"blk.{layer}", f"model.layers.{layer}")
    metadata = _metadata(config, n_layer, rope)
    if n_expert:
        metadata |= keys.experts(_ARCH, n_expert=n_expert, n_expert_used=n_expert_used)
    return ModelPlan(
        architecture=_ARCH,
        metadata=metadata,
        tensors=assembly.finish(),
        n_layer=n_layer,
        n_expert=n_expert,
        n_expert_used=n_expert_used,
        ignored=tuple(assembly.ignored),
    )


def _attention(assembly: Assembly, config: Config, block: str, source: str) -> None:
    n_head = config.integer("num_attention_heads")
    assembly.copy(f"{block}.attn_norm.weight", f"{source}.input_layernorm.weight")
    attention = f"{source}.self_attn"
    copy_interleaved(assembly, f"{block}.attn_q", f"{attention}.q_proj", n_head)
    copy_interleaved(assembly, f"{block}.attn_k", f"{attention}.k_proj", _n_head_kv(config))
    for target, name in (("attn_v", "v_proj"), ("attn_output", "o_proj")):
        assembly.copy(f"{block}.{target}.weight", f"{attention}.{name}.weight")
        assembly.copy_present(f"{block}.{target}.bias", f"{attention}.{name}.bias")
    assembly.copy(f"{block}.ffn_norm.weight", f"{source}.post_attention_layernorm.weight")


def _metadata(config: Config, n_layer: int, rope: dict[str, Any]) -> Metadata:
    metadata = keys.sizes(_ARCH, config, n_layer=n_layer, n_head_kv=_n_head_kv(config))
    if rope["rope_type"] != _LLAMA3:
        metadata |= keys.rotary(_ARCH, config)
    elif "rope_theta" in rope:
        metadata[f"{_ARCH}.rope.freq_base"] = f32(float(rope["rope_theta"]))
    if config.architecture in ARCHITECTURES or config.optional_integer("head_dim") is not None:
        metadata |= keys.head_dim(_ARCH, _head_dim(config))
    return metadata | {
        f"{_ARCH}.attention.layer_norm_rms_epsilon": f32(config.number("rms_norm_eps")),
        f"{_ARCH}.vocab_size": u32(config.integer("vocab_size")),
        f"{_ARCH}.rope.dimension_count": u32(_head_dim(config)),
    }


def _n_head_kv(config: Config) -> int:
    return config.integer("num_key_value_heads", config.integer("num_attention_heads"))


def _head_dim(config: Config) -> int:
    n_head = max(config.integer("num_attention_heads"), 1)
    return config.integer("head_dim", config.integer("hidden_size") // n_head)


def _checked_factors(rope: dict[str, Any], n_dimensions: int) -> npt.NDArray[np.float32]:
    """Return `_rotary_factors`. Raise `InvalidCheckpoint` where the settings give no positive numbers."""
    try:
        with np.errstate(divide="raise", over="raise", invalid="raise"):
            factors = _rotary_factors(rope, n_dimensions)
    except FloatingPointError:
        factors = np.zeros(1, np.float32)
    if not (factors > 0).all():
        raise InvalidCheckpoint(
            "config.json gives numbers for the rotary scaling that cannot be computed with.",
            hint="Take config.json from the original repository.",
        )
    return factors


def _rotary_factors(rope: dict[str, Any], n_dimensions: int) -> npt.NDArray[np.float32]:
    """By how much each frequency is divided: Llama 3.1's rule, which leaves the short waves alone.

    Source: llama.cpp, conversion/llama.py, generate_extra_tensors.
    """
    one = np.float32(1)
    base = np.float32(rope.get("rope_theta", 10000.0))
    exponents = np.arange(0, n_dimensions, 2, dtype=np.float32) / np.float32(n_dimensions)
    # Reciprocals where torch takes them, so that the last bit is the official converter's too.
    waves = one / (one / np.power(base, exponents)) * np.float32(2 * math.pi)
    factor = np.float32(rope.get("factor", 8.0))
    low, high = np.float32(rope.get("low_freq_factor", 1.0)), np.float32(rope.get("high_freq_factor", 4.0))
    trained = np.float32(rope.get("original_max_position_embeddings", 8192))
    smooth = (one / waves * trained - low) / (high - low)
    between = one / ((one - smooth) / factor + smooth)
    return np.where(waves < trained / high, one, np.where(waves > trained / low, factor, between))

"""Attention with separate query, key and value matrices, rotated as transformers does. Knows no family."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp_converters.plan import ElementMap

if TYPE_CHECKING:
    from edgeapp_converters.arch.assembly import Assembly
    from edgeapp_converters.arch.config import Config

_NAMES = {"attn_q": "q_proj", "attn_k": "k_proj", "attn_v": "v_proj", "attn_output": "o_proj"}


def copy(
    assembly: Assembly,
    block: str,
    source: str,
    *,
    ffn_norm: str = "post_attention_layernorm",
    norm_map: ElementMap = ElementMap.NONE,
) -> None:
    """Norms and projections of the layer `source`, biases and norms of query and key where it has them."""
    assembly.copy(f"{block}.attn_norm.weight", f"{source}.input_layernorm.weight", element_map=norm_map)
    assembly.copy(f"{block}.ffn_norm.weight", f"{source}.{ffn_norm}.weight", element_map=norm_map)
    attention = f"{source}.self_attn"
    for target, name in _NAMES.items():
        assembly.copy(f"{block}.{target}.weight", f"{attention}.{name}.weight")
        assembly.copy_present(f"{block}.{target}.bias", f"{attention}.{name}.bias")
    for name in ("q_norm", "k_norm"):
        if f"{attention}.{name}.weight" in assembly:
            weight = f"{attention}.{name}.weight"
            assembly.copy(f"{block}.attn_{name}.weight", weight, element_map=norm_map)


def n_head_kv(config: Config) -> int:
    """Heads of key and value; as many as of the query where the configuration does not say."""
    return config.integer("num_key_value_heads", config.integer("num_attention_heads"))

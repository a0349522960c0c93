"""Granite-3.1-MoE in small: fused gate and up experts, rotary permutation, four multipliers, tied output."""

from __future__ import annotations

from typing import Any

CONFIG: dict[str, Any] = {
    "architectures": ["GraniteMoeForCausalLM"],
    "model_type": "granitemoe",
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 8,
    "num_experts_per_tok": 3,
    "attention_multiplier": 0.125,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "logits_scaling": 6.0,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "hidden_act": "silu",
    "attention_bias": False,
    "tie_word_embeddings": True,
}


def tensors() -> list[tuple[str, tuple[int, ...], str]]:
    whole: list[tuple[str, tuple[int, ...], str]] = [
        ("model.embed_tokens.weight", (512, 128), "BF16"),
        ("model.norm.weight", (128,), "BF16"),
    ]
    for layer in range(2):
        whole += [(f"model.layers.{layer}.{name}", shape, "BF16") for name, shape in _LAYER]
    return whole


_LAYER: list[tuple[str, tuple[int, ...]]] = [
    ("input_layernorm.weight", (128,)),
    ("post_attention_layernorm.weight", (128,)),
    ("self_attn.q_proj.weight", (128, 128)),
    ("self_attn.k_proj.weight", (64, 128)),
    ("self_attn.v_proj.weight", (64, 128)),
    ("self_attn.o_proj.weight", (128, 128)),
    ("block_sparse_moe.router.layer.weight", (8, 128)),
    ("block_sparse_moe.input_linear.weight", (8, 128, 128)),
    ("block_sparse_moe.output_linear.weight", (8, 128, 64)),
]

"""Granite-MoE with a shared expert in small: its gate and up are fused too; output not tied; K-quants fit."""

from __future__ import annotations

from typing import Any

CONFIG: dict[str, Any] = {
    "architectures": ["GraniteMoeSharedForCausalLM"],
    "model_type": "granitemoeshared",
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 256,
    "shared_intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "attention_multiplier": 0.015625,
    "embedding_multiplier": 12,
    "residual_multiplier": 0.22,
    "logits_scaling": 8,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-05,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000},
    "hidden_act": "silu",
    "attention_bias": False,
    "tie_word_embeddings": False,
}


def tensors() -> list[tuple[str, tuple[int, ...], str]]:
    whole: list[tuple[str, tuple[int, ...], str]] = [
        ("lm_head.weight", (512, 256), "F16"),
        ("model.embed_tokens.weight", (512, 256), "F16"),
        ("model.norm.weight", (256,), "F16"),
    ]
    for layer in range(2):
        whole += [(f"model.layers.{layer}.{name}", shape, "F16") for name, shape in _LAYER]
    return whole


_LAYER: list[tuple[str, tuple[int, ...]]] = [
    ("input_layernorm.weight", (256,)),
    ("post_attention_layernorm.weight", (256,)),
    ("self_attn.q_proj.weight", (256, 256)),
    ("self_attn.k_proj.weight", (256, 256)),
    ("self_attn.v_proj.weight", (256, 256)),
    ("self_attn.o_proj.weight", (256, 256)),
    ("block_sparse_moe.router.layer.weight", (4, 256)),
    ("block_sparse_moe.input_linear.weight", (4, 512, 256)),
    ("block_sparse_moe.output_linear.weight", (4, 256, 256)),
    ("shared_mlp.input_linear.weight", (1024, 256)),
    ("shared_mlp.output_linear.weight", (256, 512)),
]

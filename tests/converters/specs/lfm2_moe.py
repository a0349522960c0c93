"""LFM2-8B-A1B in small: short convolutions beside attention, two leading dense layers, biased router."""

from __future__ import annotations

from typing import Any

CONFIG: dict[str, Any] = {
    "architectures": ["Lfm2MoeForCausalLM"],
    "model_type": "lfm2_moe",
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 192,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "layer_types": ["conv", "conv", "full_attention", "conv"],
    "num_dense_layers": 2,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "use_expert_bias": True,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.0,
    "conv_L_cache": 3,
    "conv_bias": False,
    "max_position_embeddings": 512,
    "norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "tie_embedding": True,
}


def tensors() -> list[tuple[str, tuple[int, ...], str]]:
    whole: list[tuple[str, tuple[int, ...], str]] = [
        ("model.embed_tokens.weight", (512, 128), "BF16"),
        ("model.embedding_norm.weight", (128,), "BF16"),
    ]
    for layer in range(4):
        whole += [(f"model.layers.{layer}.{name}", shape, dtype) for name, shape, dtype in _layer(layer)]
    return whole


def _layer(layer: int) -> list[tuple[str, tuple[int, ...], str]]:
    return [
        ("operator_norm.weight", (128,), "BF16"),
        ("ffn_norm.weight", (128,), "BF16"),
        *(_attention() if layer == 2 else _convolution()),
        *(_feed_forward("feed_forward", 192) if layer < 2 else _experts()),
    ]


def _convolution() -> list[tuple[str, tuple[int, ...], str]]:
    return [
        ("conv.conv.weight", (128, 1, 3), "BF16"),
        ("conv.in_proj.weight", (3 * 128, 128), "BF16"),
        ("conv.out_proj.weight", (128, 128), "BF16"),
    ]


def _attention() -> list[tuple[str, tuple[int, ...], str]]:
    return [
        ("self_attn.q_proj.weight", (128, 128), "BF16"),
        ("self_attn.k_proj.weight", (64, 128), "BF16"),
        ("self_attn.v_proj.weight", (64, 128), "BF16"),
        ("self_attn.out_proj.weight", (128, 128), "BF16"),
        ("self_attn.q_layernorm.weight", (32,), "BF16"),
        ("self_attn.k_layernorm.weight", (32,), "BF16"),
    ]


def _experts() -> list[tuple[str, tuple[int, ...], str]]:
    routed = [t for expert in range(8) for t in _feed_forward(f"feed_forward.experts.{expert}", 64)]
    return [
        ("feed_forward.gate.weight", (8, 128), "BF16"),
        ("feed_forward.expert_bias", (8,), "F32"),
        *routed,
    ]


def _feed_forward(name: str, width: int) -> list[tuple[str, tuple[int, ...], str]]:
    return [
        (f"{name}.w1.weight", (width, 128), "BF16"),
        (f"{name}.w3.weight", (width, 128), "BF16"),
        (f"{name}.w2.weight", (128, width), "BF16"),
    ]

"""GLM-4.5-Air in small: half the head is rotated, norms of queries, biased router, a prediction layer."""

from __future__ import annotations

from typing import Any

CONFIG: dict[str, Any] = {
    "architectures": ["Glm4MoeForCausalLM"],
    "model_type": "glm4_moe",
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 512,
    "moe_intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_nextn_predict_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "partial_rotary_factor": 0.5,
    "use_qk_norm": True,
    "first_k_dense_replace": 1,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000,
    "rope_scaling": None,
    "hidden_act": "silu",
    "attention_bias": True,
    "tie_word_embeddings": False,
}

Shapes = list[tuple[str, tuple[int, ...], str]]


def tensors() -> Shapes:
    whole: Shapes = [
        ("model.embed_tokens.weight", (512, 256), "BF16"),
        ("model.norm.weight", (256,), "BF16"),
        ("lm_head.weight", (512, 256), "BF16"),
    ]
    for layer in range(3):
        whole += [(f"model.layers.{layer}.{name}", shape, dtype) for name, shape, dtype in _layer(layer)]
    return whole + [(f"model.layers.3.{name}", shape, dtype) for name, shape, dtype in _prediction()]


def _layer(layer: int) -> Shapes:
    return [*_attention(), *(_feed_forward("mlp", 512) if layer == 0 else _experts())]


def _attention() -> Shapes:
    return [
        ("input_layernorm.weight", (256,), "BF16"),
        ("post_attention_layernorm.weight", (256,), "BF16"),
        ("self_attn.q_proj.weight", (256, 256), "BF16"),
        ("self_attn.q_proj.bias", (256,), "BF16"),
        ("self_attn.k_proj.weight", (128, 256), "BF16"),
        ("self_attn.k_proj.bias", (128,), "BF16"),
        ("self_attn.v_proj.weight", (128, 256), "BF16"),
        ("self_attn.v_proj.bias", (128,), "BF16"),
        ("self_attn.o_proj.weight", (256, 256), "BF16"),
        ("self_attn.q_norm.weight", (64,), "BF16"),
        ("self_attn.k_norm.weight", (64,), "BF16"),
    ]


def _experts() -> Shapes:
    routed = [tensor for expert in range(4) for tensor in _feed_forward(f"mlp.experts.{expert}", 256)]
    return [
        ("mlp.gate.weight", (4, 256), "BF16"),
        ("mlp.gate.e_score_correction_bias", (4,), "F32"),
        *_feed_forward("mlp.shared_experts", 256),
        *routed,
    ]


def _feed_forward(name: str, width: int) -> Shapes:
    return [
        (f"{name}.gate_proj.weight", (width, 256), "BF16"),
        (f"{name}.up_proj.weight", (width, 256), "BF16"),
        (f"{name}.down_proj.weight", (256, width), "BF16"),
    ]


def _prediction() -> Shapes:
    return [
        ("enorm.weight", (256,), "BF16"),
        ("hnorm.weight", (256,), "BF16"),
        ("eh_proj.weight", (256, 512), "BF16"),
        ("embed_tokens.weight", (512, 256), "BF16"),
        ("shared_head.norm.weight", (256,), "BF16"),
        ("shared_head.head.weight", (512, 256), "BF16"),
        *_layer(3),
    ]

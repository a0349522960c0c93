"""ERNIE-4.5-21B-A3B in small: biased softmax router, two shared experts, dense and prediction layers."""

from __future__ import annotations

from typing import Any

CONFIG: dict[str, Any] = {
    "architectures": ["Ernie4_5_MoeForCausalLM"],
    "model_type": "ernie4_5_moe",
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "moe_intermediate_size": 64,
    "moe_num_experts": 8,
    "moe_num_shared_experts": 2,
    "moe_k": 3,
    "moe_layer_start_index": 1,
    "moe_layer_end_index": 2,
    "moe_layer_interval": 1,
    "moe_use_aux_free": True,
    "num_hidden_layers": 3,
    "num_nextn_predict_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "hidden_act": "silu",
    "use_bias": False,
    "tie_word_embeddings": True,
}


def tensors() -> list[tuple[str, tuple[int, ...], str]]:
    whole: list[tuple[str, tuple[int, ...], str]] = [
        ("model.embed_tokens.weight", (512, 128), "BF16"),
        ("model.norm.weight", (128,), "BF16"),
    ]
    for layer in range(3):
        whole += [(f"model.layers.{layer}.{name}", shape, dtype) for name, shape, dtype in _layer(layer)]
    return whole + _prediction()


def _layer(layer: int) -> list[tuple[str, tuple[int, ...], str]]:
    attention: list[tuple[str, tuple[int, ...], str]] = [
        ("input_layernorm.weight", (128,), "BF16"),
        ("post_attention_layernorm.weight", (128,), "BF16"),
        ("self_attn.q_proj.weight", (128, 128), "BF16"),
        ("self_attn.k_proj.weight", (64, 128), "BF16"),
        ("self_attn.v_proj.weight", (64, 128), "BF16"),
        ("self_attn.o_proj.weight", (128, 128), "BF16"),
    ]
    return attention + (_feed_forward("mlp", 256) if layer == 0 else _experts())


def _experts() -> list[tuple[str, tuple[int, ...], str]]:
    routed = [tensor for expert in range(8) for tensor in _feed_forward(f"mlp.experts.{expert}", 64)]
    return [
        ("mlp.gate.weight", (8, 128), "F32"),
        ("mlp.moe_statics.e_score_correction_bias", (1, 8), "F32"),
        *_feed_forward("mlp.shared_experts", 128),
        *routed,
    ]


def _feed_forward(name: str, width: int) -> list[tuple[str, tuple[int, ...], str]]:
    return [
        (f"{name}.gate_proj.weight", (width, 128), "BF16"),
        (f"{name}.up_proj.weight", (width, 128), "BF16"),
        (f"{name}.down_proj.weight", (128, width), "BF16"),
    ]


def _prediction() -> list[tuple[str, tuple[int, ...], str]]:
    return [
        ("model.mtp_emb_norm.0.weight", (128,), "BF16"),
        ("model.mtp_hidden_norm.0.weight", (128,), "BF16"),
        ("model.mtp_linear_proj.0.weight", (128, 256), "BF16"),
        *[(f"model.mtp_block.0.{name}", shape, dtype) for name, shape, dtype in _layer(0)],
    ]

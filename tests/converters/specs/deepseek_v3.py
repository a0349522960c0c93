"""DeepSeek-V3 in small: low-rank queries, sigmoid scores with a bias, expert groups, a prediction layer."""

from __future__ import annotations

from typing import Any

N_HEAD = 4

CONFIG: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 256,
    "moe_intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_nextn_predict_layers": 1,
    "num_attention_heads": N_HEAD,
    "num_key_value_heads": N_HEAD,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "q_lora_rank": 96,
    "kv_lora_rank": 128,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
    "v_head_dim": 64,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 4,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 128,
        "type": "yarn",
    },
    "hidden_act": "silu",
    "attention_bias": False,
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
    return [
        ("input_layernorm.weight", (256,), "BF16"),
        ("post_attention_layernorm.weight", (256,), "BF16"),
        ("self_attn.q_a_proj.weight", (96, 256), "BF16"),
        ("self_attn.q_a_layernorm.weight", (96,), "BF16"),
        ("self_attn.q_b_proj.weight", (N_HEAD * 96, 96), "BF16"),
        ("self_attn.kv_a_proj_with_mqa.weight", (128 + 32, 256), "BF16"),
        ("self_attn.kv_a_layernorm.weight", (128,), "BF16"),
        ("self_attn.kv_b_proj.weight", (N_HEAD * (64 + 64), 128), "BF16"),
        ("self_attn.o_proj.weight", (256, N_HEAD * 64), "BF16"),
        *(_feed_forward("mlp") if layer == 0 else _experts()),
    ]


def _experts() -> Shapes:
    routed = [tensor for expert in range(8) for tensor in _feed_forward(f"mlp.experts.{expert}")]
    return [
        ("mlp.gate.weight", (8, 256), "BF16"),
        ("mlp.gate.e_score_correction_bias", (8,), "F32"),
        *_feed_forward("mlp.shared_experts"),
        *routed,
    ]


def _feed_forward(name: str) -> Shapes:
    return [(f"{name}.{part}_proj.weight", (256, 256), "BF16") for part in ("gate", "up", "down")]


def _prediction() -> Shapes:
    return [
        ("enorm.weight", (256,), "BF16"),
        ("hnorm.weight", (256,), "BF16"),
        ("eh_proj.weight", (256, 512), "BF16"),
        ("shared_head.norm.weight", (256,), "BF16"),
        *_layer(3),
    ]

"""DeepSeek-V2-Lite in small: plain queries, latent keys and values, one leading dense layer, YaRN.

It has 26 layers because llama.cpp takes plain queries as a matter of course only in models of 26 or 27.
"""

from __future__ import annotations

from typing import Any

N_LAYER = 26

CONFIG: dict[str, Any] = {
    "architectures": ["DeepseekV2ForCausalLM"],
    "model_type": "deepseek_v2",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_hidden_layers": N_LAYER,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "n_routed_experts": 4,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "greedy",
    "scoring_func": "softmax",
    "norm_topk_prob": False,
    "routed_scaling_factor": 1.5,
    "q_lora_rank": None,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 24,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 4,
        "mscale": 0.707,
        "mscale_all_dim": 0.707,
        "original_max_position_embeddings": 128,
        "type": "yarn",
    },
    "hidden_act": "silu",
    "attention_bias": False,
    "tie_word_embeddings": False,
}


def tensors() -> list[tuple[str, tuple[int, ...], str]]:
    whole: list[tuple[str, tuple[int, ...], str]] = [
        ("model.embed_tokens.weight", (512, 64), "BF16"),
        ("model.norm.weight", (64,), "BF16"),
        ("lm_head.weight", (512, 64), "BF16"),
    ]
    for layer in range(N_LAYER):
        whole += [(f"model.layers.{layer}.{name}", shape, "BF16") for name, shape in _layer(layer)]
    return whole


def _layer(layer: int) -> list[tuple[str, tuple[int, ...]]]:
    return [
        ("input_layernorm.weight", (64,)),
        ("post_attention_layernorm.weight", (64,)),
        ("self_attn.q_proj.weight", (2 * 48, 64)),
        ("self_attn.kv_a_proj_with_mqa.weight", (32 + 16, 64)),
        ("self_attn.kv_a_layernorm.weight", (32,)),
        ("self_attn.kv_b_proj.weight", (2 * (32 + 24), 32)),
        ("self_attn.o_proj.weight", (64, 2 * 24)),
        *(_feed_forward("mlp", 96) if layer == 0 else _experts()),
    ]


def _experts() -> list[tuple[str, tuple[int, ...]]]:
    routed = [tensor for expert in range(4) for tensor in _feed_forward(f"mlp.experts.{expert}", 32)]
    return [("mlp.gate.weight", (4, 64)), *_feed_forward("mlp.shared_experts", 64), *routed]


def _feed_forward(name: str, width: int) -> list[tuple[str, tuple[int, ...]]]:
    return [
        (f"{name}.gate_proj.weight", (width, 64)),
        (f"{name}.up_proj.weight", (width, 64)),
        (f"{name}.down_proj.weight", (64, width)),
    ]

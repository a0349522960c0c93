"""GPT-OSS un-quantised, in small: interleaved, transposed expert weights, biases, sinks, sliding windows."""

from __future__ import annotations

from typing import Any

CONFIG: dict[str, Any] = {
    "architectures": ["GptOssForCausalLM"],
    "model_type": "gpt_oss",
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 64,
    "head_dim": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"],
    "swiglu_limit": 7.0,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-05,
    "rope_theta": 150000,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 4.0,
        "original_max_position_embeddings": 128,
        "rope_type": "yarn",
        "truncate": True,
    },
    "hidden_act": "silu",
    "attention_bias": True,
    "tie_word_embeddings": False,
}

Shapes = list[tuple[str, tuple[int, ...], str]]


def tensors() -> Shapes:
    return whole_model(
        [
            ("mlp.experts.gate_up_proj", (4, 128, 128), "BF16"),
            ("mlp.experts.down_proj", (4, 64, 128), "BF16"),
        ]
    )


def whole_model(expert_weights: Shapes) -> Shapes:
    """All tensors of the two layers, with `expert_weights` in each."""
    whole: Shapes = [
        ("model.embed_tokens.weight", (512, 128), "BF16"),
        ("model.norm.weight", (128,), "BF16"),
        ("lm_head.weight", (512, 128), "BF16"),
    ]
    for layer in range(2):
        of_layer = [*_ATTENTION, *_ROUTER, *expert_weights]
        whole += [(f"model.layers.{layer}.{name}", shape, dtype) for name, shape, dtype in of_layer]
    return whole


_ATTENTION: Shapes = [
    ("input_layernorm.weight", (128,), "BF16"),
    ("post_attention_layernorm.weight", (128,), "BF16"),
    ("self_attn.q_proj.weight", (128, 128), "BF16"),
    ("self_attn.q_proj.bias", (128,), "BF16"),
    ("self_attn.k_proj.weight", (64, 128), "BF16"),
    ("self_attn.k_proj.bias", (64,), "BF16"),
    ("self_attn.v_proj.weight", (64, 128), "BF16"),
    ("self_attn.v_proj.bias", (64,), "BF16"),
    ("self_attn.o_proj.weight", (128, 128), "BF16"),
    ("self_attn.o_proj.bias", (128,), "BF16"),
    ("self_attn.sinks", (4,), "BF16"),
]
_ROUTER: Shapes = [
    ("mlp.router.weight", (4, 128), "BF16"),
    ("mlp.router.bias", (4,), "BF16"),
    ("mlp.experts.gate_up_proj_bias", (4, 128), "BF16"),
    ("mlp.experts.down_proj_bias", (4, 128), "BF16"),
]

"""Gemma-4-26B-A4B in small: a dense block beside experts, two head sizes, keys that serve as values."""

from __future__ import annotations

from typing import Any

CONFIG: dict[str, Any] = {
    "architectures": ["Gemma4ForCausalLM"],
    "model_type": "gemma4_text",
    "vocab_size": 512,
    "vocab_size_per_layer_input": 512,
    "hidden_size": 128,
    "hidden_size_per_layer_input": 0,
    "intermediate_size": 192,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_global_key_value_heads": 1,
    "head_dim": 32,
    "global_head_dim": 64,
    "attention_k_eq_v": True,
    "num_kv_shared_layers": 0,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "sliding_window": 8,
    "enable_moe_block": True,
    "num_experts": 8,
    "top_k_experts": 3,
    "use_double_wide_mlp": False,
    "final_logit_softcapping": 30.0,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {
        "full_attention": {
            "partial_rotary_factor": 0.25,
            "rope_theta": 1000000.0,
            "rope_type": "proportional",
        },
        "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
    },
    "hidden_activation": "gelu_pytorch_tanh",
    "attention_bias": False,
    "tie_word_embeddings": True,
}

Shapes = list[tuple[str, tuple[int, ...]]]


def tensors() -> list[tuple[str, tuple[int, ...], str]]:
    whole: Shapes = [("model.embed_tokens.weight", (512, 128)), ("model.norm.weight", (128,))]
    for layer in range(3):
        attention = _full_attention() if layer == 2 else _sliding_attention()
        whole += [(f"model.layers.{layer}.{name}", shape) for name, shape in [*attention, *_FEED_FORWARD]]
    return [(name, shape, "BF16") for name, shape in whole]


def _sliding_attention() -> Shapes:
    return [
        ("self_attn.q_proj.weight", (4 * 32, 128)),
        ("self_attn.k_proj.weight", (2 * 32, 128)),
        ("self_attn.v_proj.weight", (2 * 32, 128)),
        ("self_attn.o_proj.weight", (128, 4 * 32)),
        ("self_attn.q_norm.weight", (32,)),
        ("self_attn.k_norm.weight", (32,)),
    ]


def _full_attention() -> Shapes:
    return [
        ("self_attn.q_proj.weight", (4 * 64, 128)),
        ("self_attn.k_proj.weight", (1 * 64, 128)),
        ("self_attn.o_proj.weight", (128, 4 * 64)),
        ("self_attn.q_norm.weight", (64,)),
        ("self_attn.k_norm.weight", (64,)),
    ]


_FEED_FORWARD: Shapes = [
    ("layer_scalar", (1,)),
    ("input_layernorm.weight", (128,)),
    ("post_attention_layernorm.weight", (128,)),
    ("pre_feedforward_layernorm.weight", (128,)),
    ("pre_feedforward_layernorm_2.weight", (128,)),
    ("post_feedforward_layernorm.weight", (128,)),
    ("post_feedforward_layernorm_1.weight", (128,)),
    ("post_feedforward_layernorm_2.weight", (128,)),
    ("mlp.gate_proj.weight", (192, 128)),
    ("mlp.up_proj.weight", (192, 128)),
    ("mlp.down_proj.weight", (128, 192)),
    ("router.proj.weight", (8, 128)),
    ("router.scale", (128,)),
    ("router.per_expert_scale", (8,)),
    ("experts.gate_up_proj", (8, 128, 128)),
    ("experts.down_proj", (8, 128, 64)),
]

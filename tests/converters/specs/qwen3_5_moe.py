"""Qwen3.5-MoE in small, with a stub of its vision part: fused experts, heads of values in another order."""

from __future__ import annotations

from typing import Any

_TEXT: dict[str, Any] = {
    "model_type": "qwen3_5_moe_text",
    "vocab_size": 512,
    "hidden_size": 128,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "full_attention_interval": 4,
    "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "mtp_num_hidden_layers": 1,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000000,
        "partial_rotary_factor": 0.25,
        "mrope_interleaved": True,
        "mrope_section": [3, 3, 2],
    },
    "hidden_act": "silu",
    "attention_bias": False,
    "tie_word_embeddings": False,
}

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3_5MoeForConditionalGeneration"],
    "model_type": "qwen3_5_moe",
    "text_config": _TEXT,
    "vision_config": {
        "model_type": "qwen3_5_moe",
        "depth": 0,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 128,
    },
    "tie_word_embeddings": False,
}

Shapes = list[tuple[str, tuple[int, ...]]]


def tensors() -> list[tuple[str, tuple[int, ...], str]]:
    whole: Shapes = [
        ("model.language_model.embed_tokens.weight", (512, 128)),
        ("model.language_model.norm.weight", (128,)),
        ("lm_head.weight", (512, 128)),
        *_prediction(),
        *_VISION,
    ]
    for layer in range(4):
        of_layer = [*(_attention() if layer == 3 else _delta_net()), *_feed_forward()]
        whole += [(f"model.language_model.layers.{layer}.{name}", shape) for name, shape in of_layer]
    return [(name, shape, "F32" if name.endswith("A_log") else "BF16") for name, shape in whole]


def _attention() -> Shapes:
    return [
        ("self_attn.q_proj.weight", (2 * 4 * 64, 128)),
        ("self_attn.k_proj.weight", (2 * 64, 128)),
        ("self_attn.v_proj.weight", (2 * 64, 128)),
        ("self_attn.o_proj.weight", (128, 4 * 64)),
        ("self_attn.q_norm.weight", (64,)),
        ("self_attn.k_norm.weight", (64,)),
    ]


def _delta_net() -> Shapes:
    return [
        ("linear_attn.in_proj_qkv.weight", (2 * 2 * 32 + 6 * 32, 128)),
        ("linear_attn.in_proj_z.weight", (6 * 32, 128)),
        ("linear_attn.in_proj_b.weight", (6, 128)),
        ("linear_attn.in_proj_a.weight", (6, 128)),
        ("linear_attn.conv1d.weight", (2 * 2 * 32 + 6 * 32, 1, 4)),
        ("linear_attn.dt_bias", (6,)),
        ("linear_attn.A_log", (6,)),
        ("linear_attn.norm.weight", (32,)),
        ("linear_attn.out_proj.weight", (128, 6 * 32)),
    ]


def _feed_forward() -> Shapes:
    return [
        ("input_layernorm.weight", (128,)),
        ("post_attention_layernorm.weight", (128,)),
        ("mlp.gate.weight", (8, 128)),
        ("mlp.experts.gate_up_proj", (8, 128, 128)),
        ("mlp.experts.down_proj", (8, 128, 64)),
        ("mlp.shared_expert_gate.weight", (1, 128)),
        ("mlp.shared_expert.gate_proj.weight", (64, 128)),
        ("mlp.shared_expert.up_proj.weight", (64, 128)),
        ("mlp.shared_expert.down_proj.weight", (128, 64)),
    ]


def _prediction() -> Shapes:
    return [
        ("mtp.fc.weight", (128, 256)),
        ("mtp.norm.weight", (128,)),
        ("mtp.pre_fc_norm_embedding.weight", (128,)),
        ("mtp.pre_fc_norm_hidden.weight", (128,)),
        *[(f"mtp.layers.0.{name}", shape) for name, shape in [*_attention(), *_feed_forward()]],
    ]


_VISION: Shapes = [
    ("model.visual.merger.norm.weight", (32,)),
    ("model.visual.merger.norm.bias", (32,)),
]

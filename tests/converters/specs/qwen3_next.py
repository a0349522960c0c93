"""Qwen3-Next in small: gated delta nets beside gated attention, norms around zero, a prediction layer."""

from __future__ import annotations

from typing import Any

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3NextForCausalLM"],
    "model_type": "qwen3_next",
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 192,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "partial_rotary_factor": 0.25,
    "full_attention_interval": 4,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000000,
    "rope_scaling": None,
    "hidden_act": "silu",
    "attention_bias": False,
    "tie_word_embeddings": False,
}

Shapes = list[tuple[str, tuple[int, ...]]]


def tensors() -> list[tuple[str, tuple[int, ...], str]]:
    whole: Shapes = [
        ("model.embed_tokens.weight", (512, 128)),
        ("model.norm.weight", (128,)),
        ("lm_head.weight", (512, 128)),
        *_prediction(),
    ]
    for layer in range(4):
        mixer = _attention() if layer == 3 else _delta_net()
        whole += [(f"model.layers.{layer}.{name}", shape) for name, shape in [*mixer, *_feed_forward()]]
    return [(name, shape, "BF16") for name, shape in whole]


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
        ("linear_attn.in_proj_qkvz.weight", (2 * 2 * 32 + 2 * 4 * 32, 128)),
        ("linear_attn.in_proj_ba.weight", (2 * 4, 128)),
        ("linear_attn.conv1d.weight", (2 * 2 * 32 + 4 * 32, 1, 4)),
        ("linear_attn.dt_bias", (4,)),
        ("linear_attn.A_log", (4,)),
        ("linear_attn.norm.weight", (32,)),
        ("linear_attn.out_proj.weight", (128, 4 * 32)),
    ]


def _feed_forward() -> Shapes:
    routed = [matrix for expert in range(8) for matrix in _matrices(f"mlp.experts.{expert}", 64)]
    return [
        ("input_layernorm.weight", (128,)),
        ("post_attention_layernorm.weight", (128,)),
        ("mlp.gate.weight", (8, 128)),
        ("mlp.shared_expert_gate.weight", (1, 128)),
        *_matrices("mlp.shared_expert", 96),
        *routed,
    ]


def _matrices(name: str, width: int) -> Shapes:
    return [
        (f"{name}.gate_proj.weight", (width, 128)),
        (f"{name}.up_proj.weight", (width, 128)),
        (f"{name}.down_proj.weight", (128, width)),
    ]


def _prediction() -> Shapes:
    return [
        ("mtp.fc.weight", (128, 256)),
        ("mtp.norm.weight", (128,)),
        ("mtp.pre_fc_norm_embedding.weight", (128,)),
        ("mtp.pre_fc_norm_hidden.weight", (128,)),
        *[(f"mtp.layers.0.{name}", shape) for name, shape in [*_attention(), *_feed_forward()]],
    ]

"""Qwen2-MoE in small: biases and a gated shared expert."""

from __future__ import annotations

from typing import Any

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen2MoeForCausalLM"],
    "model_type": "qwen2_moe",
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 192,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "norm_topk_prob": False,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "use_sliding_window": False,
    "tie_word_embeddings": False,
}
_DTYPE = "BF16"


def tensors() -> list[tuple[str, tuple[int, ...], str]]:
    whole: list[tuple[str, tuple[int, ...], str]] = [
        ("model.embed_tokens.weight", (512, 128), _DTYPE),
        ("model.norm.weight", (128,), _DTYPE),
        ("lm_head.weight", (512, 128), _DTYPE),
    ]
    for layer in range(3):
        whole += [(f"model.layers.{layer}.{name}", shape, _DTYPE) for name, shape in _layer()]
    return whole


def _layer() -> list[tuple[str, tuple[int, ...]]]:
    return [
        ("input_layernorm.weight", (128,)),
        ("post_attention_layernorm.weight", (128,)),
        ("self_attn.q_proj.weight", (128, 128)),
        ("self_attn.q_proj.bias", (128,)),
        ("self_attn.k_proj.weight", (64, 128)),
        ("self_attn.k_proj.bias", (64,)),
        ("self_attn.v_proj.weight", (64, 128)),
        ("self_attn.v_proj.bias", (64,)),
        ("self_attn.o_proj.weight", (128, 128)),
        ("mlp.gate.weight", (6, 128)),
        ("mlp.shared_expert_gate.weight", (1, 128)),
        ("mlp.shared_expert.gate_proj.weight", (96, 128)),
        ("mlp.shared_expert.up_proj.weight", (96, 128)),
        ("mlp.shared_expert.down_proj.weight", (128, 96)),
        *((f"mlp.experts.{e}.gate_proj.weight", (64, 128)) for e in range(6)),
        *((f"mlp.experts.{e}.up_proj.weight", (64, 128)) for e in range(6)),
        *((f"mlp.experts.{e}.down_proj.weight", (128, 64)) for e in range(6)),
    ]

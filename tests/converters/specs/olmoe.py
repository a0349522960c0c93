"""OLMoE in small: norms of query and key over all heads."""

from __future__ import annotations

from typing import Any

CONFIG: dict[str, Any] = {
    "architectures": ["OlmoeForCausalLM"],
    "model_type": "olmoe",
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "norm_topk_prob": False,
    "clip_qkv": None,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
_DTYPE = "BF16"


def tensors() -> list[tuple[str, tuple[int, ...], str]]:
    whole: list[tuple[str, tuple[int, ...], str]] = [
        ("model.embed_tokens.weight", (512, 128), _DTYPE),
        ("model.norm.weight", (128,), _DTYPE),
        ("lm_head.weight", (512, 128), _DTYPE),
    ]
    for layer in range(2):
        whole += [(f"model.layers.{layer}.{name}", shape, _DTYPE) for name, shape in _layer()]
    return whole


def _layer() -> list[tuple[str, tuple[int, ...]]]:
    return [
        ("input_layernorm.weight", (128,)),
        ("post_attention_layernorm.weight", (128,)),
        ("self_attn.q_proj.weight", (128, 128)),
        ("self_attn.k_proj.weight", (128, 128)),
        ("self_attn.v_proj.weight", (128, 128)),
        ("self_attn.o_proj.weight", (128, 128)),
        ("self_attn.q_norm.weight", (128,)),
        ("self_attn.k_norm.weight", (128,)),
        ("mlp.gate.weight", (8, 128)),
        *((f"mlp.experts.{e}.gate_proj.weight", (64, 128)) for e in range(8)),
        *((f"mlp.experts.{e}.up_proj.weight", (64, 128)) for e in range(8)),
        *((f"mlp.experts.{e}.down_proj.weight", (128, 64)) for e in range(8)),
    ]

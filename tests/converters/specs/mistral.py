"""Mistral in small: LLaMA without grouped scaling, F32, an output of its own."""

from __future__ import annotations

from typing import Any

CONFIG: dict[str, Any] = {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
}
_DTYPE = "F32"


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
        ("self_attn.k_proj.weight", (64, 128)),
        ("self_attn.v_proj.weight", (64, 128)),
        ("self_attn.o_proj.weight", (128, 128)),
        ("mlp.gate_proj.weight", (192, 128)),
        ("mlp.up_proj.weight", (192, 128)),
        ("mlp.down_proj.weight", (128, 192)),
    ]

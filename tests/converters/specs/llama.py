"""LLaMA 3.1 in small: its rotary scaling, tied embeddings."""

from __future__ import annotations

from typing import Any

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 256,
        "rope_type": "llama3",
    },
    "tie_word_embeddings": True,
}
_DTYPE = "BF16"


def tensors() -> list[tuple[str, tuple[int, ...], str]]:
    whole: list[tuple[str, tuple[int, ...], str]] = [
        ("model.embed_tokens.weight", (512, 256), _DTYPE),
        ("model.norm.weight", (256,), _DTYPE),
    ]
    for layer in range(2):
        whole += [(f"model.layers.{layer}.{name}", shape, _DTYPE) for name, shape in _layer()]
    return whole


def _layer() -> list[tuple[str, tuple[int, ...]]]:
    return [
        ("input_layernorm.weight", (256,)),
        ("post_attention_layernorm.weight", (256,)),
        ("self_attn.q_proj.weight", (256, 256)),
        ("self_attn.k_proj.weight", (128, 256)),
        ("self_attn.v_proj.weight", (128, 256)),
        ("self_attn.o_proj.weight", (256, 256)),
        ("mlp.gate_proj.weight", (512, 256)),
        ("mlp.up_proj.weight", (512, 256)),
        ("mlp.down_proj.weight", (256, 512)),
    ]

"""Mixtral in small: eight experts, which llama-quantize has rules of its own for, tied embeddings."""

from __future__ import annotations

from typing import Any

CONFIG: dict[str, Any] = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": True,
}
_DTYPE = "F16"


def tensors() -> list[tuple[str, tuple[int, ...], str]]:
    whole: list[tuple[str, tuple[int, ...], str]] = [
        ("model.embed_tokens.weight", (512, 256), _DTYPE),
        ("model.norm.weight", (256,), _DTYPE),
    ]
    for layer in range(3):
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
        ("block_sparse_moe.gate.weight", (8, 256)),
        *(
            (f"block_sparse_moe.experts.{e}.{name}.weight", (256, 256))
            for e in range(8)
            for name in ("w1", "w2", "w3")
        ),
    ]

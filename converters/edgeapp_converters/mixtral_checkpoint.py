"""What a Mixtral checkpoint holds when all its experts are copies of a dense model's FFN.

Tensor names and configuration are those of mistralai/Mixtral-8x7B-v0.1 on the hub. Writes no file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgeapp_converters.safetensors_writer import NewTensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from edgeapp_converters.dense_model import DenseModel
    from edgeapp_converters.padding import Padding, Placement
    from edgeapp_converters.safetensors_writer import Dtype

_AT_ONCE = 1 << 20
"""Numbers that are in memory at a time."""
_TORCH_DTYPES: dict[Dtype, str] = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}


def mixtral_tensors(
    dense: DenseModel, padding: Padding, router: npt.NDArray[np.float32], *, dtype: Dtype
) -> list[NewTensor]:
    """Return all tensors, matrices as `dtype`, in the order in which they are best written.

    `router` is [n_layer, n_expert, n_embd] of the dense model. Gains and routers stay F32: rescaled gains
    would lose bits otherwise, and both stay F32 in the GGUF.
    """
    embedding = padding.embedding(dense.info.n_vocab)
    tensors = [_placed(dense, "token_embd.weight", embedding, ("model.embed_tokens.weight",), dtype)]
    for layer, weights in enumerate(router):
        tensors += _attention(dense, padding, layer, dtype)
        tensors += _experts(dense, padding, layer, weights, dtype)
    tensors.append(_gains(dense, padding, "output_norm.weight", "model.norm.weight"))
    if dense.has_output:
        tensors.append(_placed(dense, "output.weight", embedding, ("lm_head.weight",), dtype))
    return tensors


def mixtral_config(
    dense: DenseModel, padding: Padding, *, n_expert: int, n_expert_used: int, dtype: Dtype
) -> dict[str, Any]:
    """Return config.json without the token ids."""
    padded = padding.padded
    return {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "vocab_size": dense.info.n_vocab,
        "hidden_size": padded.n_embd,
        "intermediate_size": padded.n_ff,
        "num_hidden_layers": dense.info.n_layer,
        "num_attention_heads": padded.n_head,
        "num_key_value_heads": padded.n_head_kv,
        "head_dim": padded.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": dense.info.n_ctx_train,
        "rms_norm_eps": _shortest(dense.norm_epsilon * padding.mean_square_ratio),
        "rope_theta": dense.rope_freq_base,
        "num_local_experts": n_expert,
        "num_experts_per_tok": n_expert_used,
        "sliding_window": None,
        "tie_word_embeddings": not dense.has_output,
        "torch_dtype": _TORCH_DTYPES[dtype],
    }


def _attention(dense: DenseModel, padding: Padding, layer: int, dtype: Dtype) -> Iterator[NewTensor]:
    block, target = f"blk.{layer}.", f"model.layers.{layer}."
    yield _gains(dense, padding, f"{block}attn_norm.weight", f"{target}input_layernorm.weight")
    placements = {
        ("attn_q", "q_proj"): padding.query(),
        ("attn_k", "k_proj"): padding.key(),
        ("attn_v", "v_proj"): padding.value(),
        ("attn_output", "o_proj"): padding.attention_output(),
    }
    for (source, name), placement in placements.items():
        names = (f"{target}self_attn.{name}.weight",)
        yield _placed(dense, f"{block}{source}.weight", placement, names, dtype)


def _experts(
    dense: DenseModel, padding: Padding, layer: int, router: npt.NDArray[np.float32], dtype: Dtype
) -> Iterator[NewTensor]:
    block, target = f"blk.{layer}.", f"model.layers.{layer}."
    yield _gains(dense, padding, f"{block}ffn_norm.weight", f"{target}post_attention_layernorm.weight")
    yield _router(padding, f"{target}block_sparse_moe.gate.weight", router)
    placements = {
        ("ffn_gate", "w1"): padding.ffn_in(),
        ("ffn_up", "w3"): padding.ffn_in(),
        ("ffn_down", "w2"): padding.ffn_out(),
    }
    for (source, name), placement in placements.items():
        names = tuple(
            f"{target}block_sparse_moe.experts.{expert}.{name}.weight" for expert in range(len(router))
        )
        yield _placed(dense, f"{block}{source}.weight", placement, names, dtype)


def _gains(dense: DenseModel, padding: Padding, source: str, name: str) -> NewTensor:
    placement = padding.gains()
    return NewTensor(
        names=(name,),
        dtype="F32",
        shape=(len(placement.columns),),
        rows=lambda: _rows(dense, source, placement),
    )


def _placed(
    dense: DenseModel, source: str, placement: Placement, names: tuple[str, ...], dtype: Dtype
) -> NewTensor:
    return NewTensor(
        names=names,
        dtype=dtype,
        shape=(len(placement.rows), len(placement.columns)),
        rows=lambda: _rows(dense, source, placement),
    )


def _router(padding: Padding, name: str, weights: npt.NDArray[np.float32]) -> NewTensor:
    """The router sees the same normalised state as before, followed by zeros."""
    n_zeros = padding.padded.n_embd - weights.shape[1]
    padded = np.pad(weights, ((0, 0), (0, n_zeros)))
    return NewTensor(names=(name,), dtype="F32", shape=padded.shape, rows=lambda: [padded])


def _rows(dense: DenseModel, source: str, placement: Placement) -> Iterator[npt.NDArray[np.float32]]:
    n_rows, n_at_once = len(placement.rows), max(1, _AT_ONCE // len(placement.columns))
    for first in range(0, n_rows, n_at_once):
        last = min(first + n_at_once, n_rows)
        yield placement.place(dense.read_rows(source, *placement.span(first, last)), first, last)


def _shortest(value: float) -> float:
    """Return `value` as the shortest decimal that is the same F32 number."""
    return float(str(np.float32(value)))

"""Which tensors an architecture has, under llama.cpp's names (src/models, load_arch_tensors).

Shapes are ggml's: the length of a row first. Knows sizes only, no file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.moe_shape import Shape

_ROW_PARAMETERS = {"Q4_K": 256, "Q6_K": 256}
_FALLBACK = {"Q4_K": "Q5_0", "Q6_K": "Q8_0"}
"""For rows that are no multiple of 256 (src/llama-quant.cpp, tensor_type_fallback)."""


class NamedShape(NamedTuple):
    name: str
    shape: tuple[int, ...]
    type_name: str = "F32"


def tensors(shape: Shape) -> Iterator[NamedShape]:
    """Yield every tensor of the model, in the order of its layers."""
    for tensor in _all(shape):
        yield tensor._replace(type_name=_fitting(tensor.type_name, tensor.shape[0]))


def _fitting(type_name: str, n_row: int) -> str:
    return _FALLBACK[type_name] if n_row % _ROW_PARAMETERS.get(type_name, 1) else type_name


def _all(shape: Shape) -> Iterator[NamedShape]:
    width = shape.n_embd
    yield NamedShape("token_embd.weight", (width, shape.n_vocab), shape.embeddings_type)
    # LFM2 names its last norm after the embeddings (src/llama-arch.cpp, LLM_TENSOR_OUTPUT_NORM_LFM2).
    last_norm = "token_embd_norm" if shape.arch == "lfm2moe" else "output_norm"
    yield NamedShape(f"{last_norm}.weight", (width,))
    if not shape.tied:
        yield NamedShape("output.weight", (width, shape.n_vocab), shape.dense_type)
    if shape.all_biases:
        yield NamedShape("output_norm.bias", (width,))
        yield NamedShape("output.bias", (shape.n_vocab,))
    if shape.arch == "phimoe":  # LongRoPE
        yield NamedShape("rope_factors_long.weight", (shape.head_dim // 2,))
        yield NamedShape("rope_factors_short.weight", (shape.head_dim // 2,))
    for layer in range(shape.n_layer):
        for part in _layer(shape, layer):
            yield part._replace(name=f"blk.{layer}.{part.name}")


def _layer(shape: Shape, layer: int) -> Iterator[NamedShape]:
    second_norm = "post_attention_norm" if shape.arch in _SECOND_NORM_AFTER_ATTENTION else "ffn_norm"
    for norm in ("attn_norm", second_norm):
        yield NamedShape(f"{norm}.weight", (shape.n_embd,))
        if shape.all_biases:
            yield NamedShape(f"{norm}.bias", (shape.n_embd,))
    yield from _mixer(shape, layer)
    if shape.is_dense(layer):
        yield from _gated(shape, "", shape.n_ff)
    else:
        yield from _experts(shape)
    if layer >= shape.n_layer - shape.n_nextn:
        yield from _next_token(shape)


_SECOND_NORM_AFTER_ATTENTION = frozenset({"glm4moe", "gpt-oss", "qwen3next"})


def _mixer(shape: Shape, layer: int) -> Iterator[NamedShape]:
    """Yield what mixes tokens with each other: attention, or what a hybrid has instead."""
    if not shape.attends(layer):
        return _RECURRENT[shape.arch](shape)
    return _latent_attention(shape) if shape.kv_lora_rank else _attention(shape)


def _attention(shape: Shape) -> Iterator[NamedShape]:
    width, n_q, n_kv = shape.n_embd, shape.n_head * shape.head_dim, shape.n_head_kv * shape.head_dim
    n_query = 2 * n_q if shape.arch == "qwen3next" else n_q  # queries and their gates
    for name, n_out in (("q", n_query), ("k", n_kv), ("v", n_kv)):
        yield NamedShape(f"attn_{name}.weight", (width, n_out), shape.dense_type)
        if shape.qkv_bias or shape.arch == "gpt-oss":
            yield NamedShape(f"attn_{name}.bias", (n_out,))
    yield NamedShape("attn_output.weight", (n_q, width), shape.dense_type)
    if shape.all_biases or shape.arch == "gpt-oss":
        yield NamedShape("attn_output.bias", (width,))
    if shape.arch == "gpt-oss":
        yield NamedShape("attn_sinks.weight", (shape.n_head,))
    if shape.qk_norm != "no":
        by_head = shape.qk_norm == "head"
        yield NamedShape("attn_q_norm.weight", (shape.head_dim if by_head else n_q,))
        yield NamedShape("attn_k_norm.weight", (shape.head_dim if by_head else n_kv,))


def _latent_attention(shape: Shape) -> Iterator[NamedShape]:
    """DeepSeek's, with kv_b split into k_b and v_b as conversions do."""
    width, n_head, rank, dense = shape.n_embd, shape.n_head, shape.kv_lora_rank, shape.dense_type
    n_q = n_head * (shape.head_dim + shape.rope_dim)
    if shape.q_lora_rank:
        yield NamedShape("attn_q_a_norm.weight", (shape.q_lora_rank,))
        yield NamedShape("attn_q_a.weight", (width, shape.q_lora_rank), dense)
        yield NamedShape("attn_q_b.weight", (shape.q_lora_rank, n_q), dense)
    else:
        yield NamedShape("attn_q.weight", (width, n_q), dense)
    yield NamedShape("attn_kv_a_norm.weight", (rank,))
    yield NamedShape("attn_kv_a_mqa.weight", (width, rank + shape.rope_dim), dense)
    yield NamedShape("attn_k_b.weight", (shape.head_dim, rank, n_head), dense)
    yield NamedShape("attn_v_b.weight", (rank, shape.head_dim, n_head), dense)
    yield NamedShape("attn_output.weight", (n_head * shape.head_dim, width), dense)


def _short_convolution(shape: Shape) -> Iterator[NamedShape]:
    width = shape.n_embd
    yield NamedShape("shortconv.conv.weight", (3, width))
    yield NamedShape("shortconv.in_proj.weight", (width, 3 * width), shape.dense_type)
    yield NamedShape("shortconv.out_proj.weight", (width, width), shape.dense_type)


def _mamba2(shape: Shape) -> Iterator[NamedShape]:
    """Granite 4: 128 heads of 64 over a state of 128, one group."""
    width, inner, state, n_head = shape.n_embd, 2 * shape.n_embd, 128, 128
    yield NamedShape("ssm_in.weight", (width, 2 * inner + 2 * state + n_head), shape.dense_type)
    yield NamedShape("ssm_conv1d.weight", (4, inner + 2 * state))
    yield NamedShape("ssm_conv1d.bias", (inner + 2 * state,))
    yield NamedShape("ssm_dt.bias", (n_head,))
    yield NamedShape("ssm_a", (1, n_head))
    yield NamedShape("ssm_d", (1, n_head))
    yield NamedShape("ssm_norm.weight", (inner, 1))
    yield NamedShape("ssm_out.weight", (inner, width), shape.dense_type)


def _gated_delta_net(shape: Shape) -> Iterator[NamedShape]:
    """Qwen3-Next: 16 key and 32 value heads of 128."""
    width, n_key, n_value, n_head = shape.n_embd, 16 * 128, 32 * 128, 32
    yield NamedShape("attn_qkv.weight", (width, 2 * n_key + n_value), shape.dense_type)
    yield NamedShape("attn_gate.weight", (width, n_value), shape.dense_type)
    yield NamedShape("ssm_conv1d.weight", (4, 2 * n_key + n_value))
    yield NamedShape("ssm_dt.bias", (n_head,))
    yield NamedShape("ssm_a", (n_head,))
    yield NamedShape("ssm_ba.weight", (width, 2 * n_head), shape.dense_type)
    yield NamedShape("ssm_norm.weight", (128,))
    yield NamedShape("ssm_out.weight", (n_value, width), shape.dense_type)


_RECURRENT = {
    "lfm2moe": _short_convolution,
    "granitehybrid": _mamba2,
    "qwen3next": _gated_delta_net,
}


def _experts(shape: Shape) -> Iterator[NamedShape]:
    width, n_expert, n_ff = shape.n_embd, shape.n_expert, shape.n_ff_exp
    yield NamedShape("ffn_gate_inp.weight", (width, n_expert))
    for name, rows in (("gate", (width, n_ff)), ("up", (width, n_ff)), ("down", (n_ff, width))):
        yield NamedShape(f"ffn_{name}_exps.weight", (*rows, n_expert), shape.expert_type)
        if shape.arch == "gpt-oss":
            yield NamedShape(f"ffn_{name}_exps.bias", (rows[1], n_expert))
    if shape.arch == "gpt-oss":
        yield NamedShape("ffn_gate_inp.bias", (n_expert,))
    if shape.arch in _SELECTION_BIAS and shape.n_layer != _V2_LITE_LAYERS:
        yield NamedShape("exp_probs_b.bias", (n_expert,))
    if shape.n_ff_shared:
        yield from _gated(shape, "_shexp", shape.n_ff_shared)
    if shape.arch.startswith("qwen") and shape.n_ff_shared:
        yield NamedShape("ffn_gate_inp_shexp.weight", (width,))


_SELECTION_BIAS = frozenset({"deepseek2", "glm4moe", "lfm2moe"})
_V2_LITE_LAYERS = 27  # DeepSeek-V2 chooses experts without a bias


def _gated(shape: Shape, suffix: str, n_ff: int) -> Iterator[NamedShape]:
    yield NamedShape(f"ffn_gate{suffix}.weight", (shape.n_embd, n_ff), shape.dense_type)
    yield NamedShape(f"ffn_up{suffix}.weight", (shape.n_embd, n_ff), shape.dense_type)
    yield NamedShape(f"ffn_down{suffix}.weight", (n_ff, shape.n_embd), shape.dense_type)


def _next_token(shape: Shape) -> Iterator[NamedShape]:
    width = shape.n_embd
    yield NamedShape("nextn.eh_proj.weight", (2 * width, width), shape.dense_type)
    yield NamedShape("nextn.enorm.weight", (width,))
    yield NamedShape("nextn.hnorm.weight", (width,))
    yield NamedShape("nextn.embed_tokens.weight", (width, shape.n_vocab), shape.embeddings_type)
    yield NamedShape("nextn.shared_head_head.weight", (width, shape.n_vocab), shape.dense_type)
    yield NamedShape("nextn.shared_head_norm.weight", (width,))

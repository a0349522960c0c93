"""Write models with the true shapes of published Mixture-of-Experts checkpoints, without their weights.

The files are sparse: a header of up to 200 kB, then nothing, so a model of 380 GB takes no room. llama.cpp
plans memory for them (`no_alloc`) as for the real ones.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from edgeapp.gguf_info.ggml_types import GGML_TYPES
from tests.gguf_bytes import F32, I32, GgufBytes, TensorSpec, Value, array, number, text
from tests.moe_shape import Shape
from tests.published_shapes import SHAPES
from tests.shape_tensors import tensors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = [
    "NO_TOKENIZER",
    "SHAPES",
    "Shape",
    "header",
    "n_parameters",
    "padded",
    "tensor_specs",
    "write_shape",
]

_TYPE_IDS = {ggml_type.name: type_id for type_id, ggml_type in GGML_TYPES.items()}
_ALIGNMENT_BYTES = 32
_FILE_TYPES = {"Q4_K": 15, "MXFP4": 38}  # enum llama_ftype (include/llama.h): Q4_K_M, MXFP4_MOE
_SIGMOID = 2  # enum llama_expert_gating_func_type (src/llama-hparams.h)
NO_TOKENIZER = (("tokenizer.ggml.model", text("none")),)


def write_shape(name: str, path: Path) -> Path:
    """Write `SHAPES[name]` to `path` in a few milliseconds and return it. The weights read as zeros."""
    shape = SHAPES[name]
    specs = tensor_specs(shape)
    encoded = header(shape, specs, name=name)
    path.write_bytes(encoded)
    os.truncate(path, len(encoded) + sum(padded(spec.n_bytes) for spec in specs))
    return path


def header(
    shape: Shape,
    specs: tuple[TensorSpec, ...],
    *,
    name: str,
    tokenizer: Sequence[tuple[str, Value]] = NO_TOKENIZER,
) -> bytes:
    """Everything in front of the weights, padded to where they begin."""
    keys = [*_general(name, shape), *tokenizer, *_own(shape)]
    return GgufBytes(keys=keys, tensors=specs, with_data=False).encode()


def tensor_specs(shape: Shape) -> tuple[TensorSpec, ...]:
    """Return each tensor's name, shape, type and bytes, in the order of the file."""
    return tuple(
        TensorSpec(
            name=tensor.name,
            shape=tensor.shape,
            type_id=_TYPE_IDS[tensor.type_name],
            n_bytes=_n_bytes(tensor.shape, tensor.type_name),
        )
        for tensor in tensors(shape)
    )


def n_parameters(shape: Shape) -> int:
    return sum(_product(tensor.shape) for tensor in tensors(shape))


def _general(name: str, shape: Shape) -> list[tuple[str, Value]]:
    return [
        ("general.architecture", text(shape.arch)),
        ("general.name", text(name)),
        ("general.file_type", number(_FILE_TYPES[shape.expert_type])),
    ]


def _own(shape: Shape) -> list[tuple[str, Value]]:
    own = _sizes(shape) | _attention(shape) | _experts(shape) | dict(shape.keys)
    return [(f"{shape.arch}.{key}", value) for key, value in own.items()]


def _sizes(shape: Shape) -> dict[str, Value]:
    keys = {
        "block_count": number(shape.n_layer),
        "context_length": number(shape.n_ctx),
        "embedding_length": number(shape.n_embd),
        "feed_forward_length": number(shape.n_ff),
        "vocab_size": number(shape.n_vocab),
    }
    if shape.n_nextn:
        keys["nextn_predict_layers"] = number(shape.n_nextn)
    return keys


def _attention(shape: Shape) -> dict[str, Value]:
    rank, rope = shape.kv_lora_rank, shape.rope_dim or shape.head_dim
    keys = {
        "attention.head_count": number(shape.n_head),
        "attention.head_count_kv": _heads_kv(shape),
        "attention.key_length": number(rank + rope if rank else shape.head_dim),
        "attention.value_length": number(rank or shape.head_dim),
        "attention.layer_norm_rms_epsilon": number(1e-6, F32),
        "attention.layer_norm_epsilon": number(1e-5, F32),
        "rope.dimension_count": number(rope),
        "rope.freq_base": number(1e6, F32),
    }
    if rank:
        keys["attention.kv_lora_rank"] = number(rank)
        keys["attention.key_length_mla"] = number(shape.head_dim + rope)
        keys["attention.value_length_mla"] = number(shape.head_dim)
    if shape.q_lora_rank:
        keys["attention.q_lora_rank"] = number(shape.q_lora_rank)
    if shape.n_swa:
        keys["attention.sliding_window"] = number(shape.n_swa)
    return keys


def _heads_kv(shape: Shape) -> Value:
    """One number, or for a hybrid that says so with zeros one for each layer."""
    if shape.attention_layers is None or shape.arch == "qwen3next":
        return number(shape.n_head_kv)
    return array(I32, [shape.n_head_kv if shape.attends(layer) else 0 for layer in range(shape.n_layer)])


def _experts(shape: Shape) -> dict[str, Value]:
    keys = {
        "expert_count": number(shape.n_expert),
        "expert_used_count": number(shape.n_expert_used),
        "expert_feed_forward_length": number(shape.n_ff_exp),
        "leading_dense_block_count": number(shape.n_dense_lead),
    }
    if shape.is_sigmoid_gated:
        keys["expert_gating_func"] = number(_SIGMOID)
    if shape.n_ff_shared:
        keys["expert_shared_feed_forward_length"] = number(shape.n_ff_shared)
        keys["expert_shared_count"] = number(shape.n_ff_shared // shape.n_ff_exp)
    return keys


def _n_bytes(shape: tuple[int, ...], type_name: str) -> int:
    ggml_type = GGML_TYPES[_TYPE_IDS[type_name]]
    return _product(shape) // ggml_type.block_parameters * ggml_type.block_bytes


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for length in shape:
        product *= length
    return product


def padded(n_bytes: int) -> int:
    return -(-n_bytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES

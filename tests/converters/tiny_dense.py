"""A dense LLaMA-like GGUF of less than 1 MB with the tokenizer of the tiny MoE: seeded noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from gguf import GGUFWriter
from gguf.quants import quantize

from edgeapp_converters.dense_model import expected_shapes
from edgeapp_converters.padding import Geometry
from tests.tiny_moe import CHATML, add_tokenizer, cut_vocabulary

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gguf import GGMLQuantizationType

GEOMETRY = Geometry(n_embd=96, n_head=6, n_head_kv=2, head_dim=16, n_ff=160)
N_LAYER = 2
N_VOCAB = 512


def write_tiny_dense(
    path: Path,
    *,
    kind: GGMLQuantizationType | None = None,
    tied: bool = True,
    extra: Mapping[str, tuple[int, ...]] | None = None,
    architecture: str = "llama",
    pre: str = "smollm",
) -> Path:
    """Write the model and return its path. `kind` is the matrices' type, F32 without it.

    `extra` are further tensors (shape in ggml's order) that a plain dense model has not.
    """
    writer = GGUFWriter(path, architecture)
    _add_metadata(writer)
    add_tokenizer(writer, cut_vocabulary(N_VOCAB), CHATML, add_bos=False)
    writer.add_tokenizer_pre(pre)
    random = np.random.default_rng(3)
    shapes = expected_shapes(GEOMETRY, n_layer=N_LAYER, n_vocab=N_VOCAB) | dict(extra or {})
    for name, shape in shapes.items():
        if name == "output.weight" and tied:
            continue
        weights = random.standard_normal(shape[::-1]).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, np.float32(1) + weights * np.float32(0.2))
        elif kind is None:
            writer.add_tensor(name, weights * np.float32(2 * shape[0] ** -0.5))
        else:
            data = quantize(weights * np.float32(2 * shape[0] ** -0.5), kind)
            writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_metadata(writer: GGUFWriter) -> None:
    writer.add_type("model")
    writer.add_name("Tiny Dense")
    writer.add_license("apache-2.0")
    writer.add_block_count(N_LAYER)
    writer.add_context_length(512)
    writer.add_embedding_length(GEOMETRY.n_embd)
    writer.add_feed_forward_length(GEOMETRY.n_ff)
    writer.add_head_count(GEOMETRY.n_head)
    writer.add_head_count_kv(GEOMETRY.n_head_kv)
    writer.add_layer_norm_rms_eps(1e-2)  # large, so that a wrong one shows
    writer.add_rope_dimension_count(GEOMETRY.head_dim)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(N_VOCAB)

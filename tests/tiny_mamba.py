"""A seeded recurrent model (`mamba`) that real llama.cpp runs: it cannot forget a part of a text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from gguf import GGUFWriter

from tests.tiny_moe import CHATML, add_tokenizer, close, cut_vocabulary

if TYPE_CHECKING:
    from pathlib import Path

_N_VOCAB, _N_LAYER, _N_EMBD, _D_INNER, _D_STATE, _DT_RANK, _D_CONV = 1024, 2, 64, 128, 16, 4, 4


def write_tiny_mamba(path: Path) -> Path:
    """Write the model (under 1 MB, F32) and return its path. The same bytes every time."""
    writer = GGUFWriter(path, "mamba")
    writer.add_type("model")
    writer.add_name("tiny mamba")
    writer.add_block_count(_N_LAYER)
    writer.add_context_length(4096)
    writer.add_embedding_length(_N_EMBD)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(_N_VOCAB)
    writer.add_ssm_conv_kernel(_D_CONV)
    writer.add_ssm_inner_size(_D_INNER)
    writer.add_ssm_state_size(_D_STATE)
    writer.add_ssm_time_step_rank(_DT_RANK)
    add_tokenizer(writer, cut_vocabulary(_N_VOCAB), CHATML, add_bos=False)
    _add_weights(writer)
    return close(writer, path)


def _add_weights(writer: GGUFWriter) -> None:
    random = np.random.default_rng(0)

    def add(name: str, *shape: int, scale: float | None = None) -> None:
        values = random.standard_normal(shape) * (scale or shape[-1] ** -0.5)
        writer.add_tensor(name, values.astype(np.float32))

    add("token_embd.weight", _N_VOCAB, _N_EMBD)
    writer.add_tensor("output_norm.weight", np.ones(_N_EMBD, np.float32))
    for layer in range(_N_LAYER):
        block = f"blk.{layer}."
        writer.add_tensor(block + "attn_norm.weight", np.ones(_N_EMBD, np.float32))
        add(block + "ssm_in.weight", 2 * _D_INNER, _N_EMBD)
        add(block + "ssm_conv1d.weight", _D_INNER, _D_CONV)
        add(block + "ssm_conv1d.bias", _D_INNER, scale=0.1)
        add(block + "ssm_x.weight", _DT_RANK + 2 * _D_STATE, _D_INNER)
        add(block + "ssm_dt.weight", _D_INNER, _DT_RANK)
        add(block + "ssm_dt.bias", _D_INNER, scale=0.1)
        decay = -np.abs(random.standard_normal((_D_INNER, _D_STATE))) * 0.05
        writer.add_tensor(block + "ssm_a", decay.astype(np.float32))
        writer.add_tensor(block + "ssm_d", np.ones(_D_INNER, np.float32))
        add(block + "ssm_out.weight", _N_EMBD, _D_INNER)

"""A seeded hybrid model (`lfm2`) that real llama.cpp runs: recurrent layers and attention layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gguf import GGUFWriter

from tests.tiny_moe import CHATML, SeededWeights, add_tokenizer, close, cut_vocabulary

if TYPE_CHECKING:
    from pathlib import Path

_N_VOCAB, _N_EMBD, _N_HEAD, _N_HEAD_KV, _N_FF, _L_CACHE = 1024, 64, 4, 2, 96, 3
_HEADS_KV = (0, _N_HEAD_KV, 0, _N_HEAD_KV)
"""By layer; without heads a layer is a short convolution, which remembers a state."""


def write_tiny_hybrid(path: Path) -> Path:
    """Write the model (under 1 MB, F32) and return its path. The same bytes every time."""
    writer = GGUFWriter(path, "lfm2")
    writer.add_type("model")
    writer.add_name("tiny hybrid")
    writer.add_block_count(len(_HEADS_KV))
    writer.add_context_length(4096)
    writer.add_embedding_length(_N_EMBD)
    writer.add_feed_forward_length(_N_FF)
    writer.add_head_count(_N_HEAD)
    writer.add_head_count_kv(_HEADS_KV)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10_000.0)
    writer.add_shortconv_l_cache(_L_CACHE)
    writer.add_vocab_size(_N_VOCAB)
    add_tokenizer(writer, cut_vocabulary(_N_VOCAB), CHATML, add_bos=False)
    _add_weights(writer)
    return close(writer, path)


def _add_weights(writer: GGUFWriter) -> None:
    weights = SeededWeights(writer)
    matrix, norm = weights.matrix, weights.norm
    head = _N_EMBD // _N_HEAD
    matrix("token_embd", _N_VOCAB, _N_EMBD)
    norm("token_embd_norm", _N_EMBD)
    for layer, n_head_kv in enumerate(_HEADS_KV):
        block = f"blk.{layer}"
        norm(f"{block}.attn_norm", _N_EMBD)
        norm(f"{block}.ffn_norm", _N_EMBD)
        matrix(f"{block}.ffn_gate", _N_FF, _N_EMBD)
        matrix(f"{block}.ffn_up", _N_FF, _N_EMBD)
        matrix(f"{block}.ffn_down", _N_EMBD, _N_FF)
        if n_head_kv:
            norm(f"{block}.attn_q_norm", head)
            norm(f"{block}.attn_k_norm", head)
            matrix(f"{block}.attn_q", _N_EMBD, _N_EMBD)
            matrix(f"{block}.attn_k", head * n_head_kv, _N_EMBD)
            matrix(f"{block}.attn_v", head * n_head_kv, _N_EMBD)
            matrix(f"{block}.attn_output", _N_EMBD, _N_EMBD)
        else:
            matrix(f"{block}.shortconv.conv", _N_EMBD, _L_CACHE)
            matrix(f"{block}.shortconv.in_proj", 3 * _N_EMBD, _N_EMBD)
            matrix(f"{block}.shortconv.out_proj", _N_EMBD, _N_EMBD)

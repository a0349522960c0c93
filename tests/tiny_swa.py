"""A seeded sliding-window model (`gemma3`) that real llama.cpp runs: most layers see a few tokens only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gguf import GGUFWriter

from tests.tiny_moe import CHATML, SeededWeights, add_tokenizer, close, cut_vocabulary

if TYPE_CHECKING:
    from pathlib import Path

N_WINDOW = 16
_N_VOCAB, _N_LAYER, _N_EMBD, _N_HEAD, _N_HEAD_KV, _N_FF = 1024, 6, 64, 4, 2, 96


def write_tiny_swa(path: Path) -> Path:
    """Write the model (about 1 MB, F32; five of six layers have the window) and return its path."""
    writer = GGUFWriter(path, "gemma3")
    writer.add_type("model")
    writer.add_name("tiny sliding window")
    writer.add_block_count(_N_LAYER)
    writer.add_context_length(4096)
    writer.add_embedding_length(_N_EMBD)
    writer.add_feed_forward_length(_N_FF)
    writer.add_head_count(_N_HEAD)
    writer.add_head_count_kv(_N_HEAD_KV)
    writer.add_key_length(_N_EMBD // _N_HEAD)
    writer.add_value_length(_N_EMBD // _N_HEAD)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10_000.0)
    writer.add_sliding_window(N_WINDOW)
    writer.add_vocab_size(_N_VOCAB)
    add_tokenizer(writer, cut_vocabulary(_N_VOCAB), CHATML, add_bos=False)
    _add_weights(writer)
    return close(writer, path)


def _add_weights(writer: GGUFWriter) -> None:
    weights = SeededWeights(writer)
    matrix, norm = weights.matrix, weights.norm
    head = _N_EMBD // _N_HEAD
    matrix("token_embd", _N_VOCAB, _N_EMBD)
    norm("output_norm", _N_EMBD)
    for layer in range(_N_LAYER):
        block = f"blk.{layer}"
        for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
            norm(f"{block}.{name}", _N_EMBD)
        norm(f"{block}.attn_q_norm", head)
        norm(f"{block}.attn_k_norm", head)
        matrix(f"{block}.attn_q", _N_EMBD, _N_EMBD)
        matrix(f"{block}.attn_k", head * _N_HEAD_KV, _N_EMBD)
        matrix(f"{block}.attn_v", head * _N_HEAD_KV, _N_EMBD)
        matrix(f"{block}.attn_output", _N_EMBD, _N_EMBD)
        matrix(f"{block}.ffn_gate", _N_FF, _N_EMBD)
        matrix(f"{block}.ffn_up", _N_FF, _N_EMBD)
        matrix(f"{block}.ffn_down", _N_EMBD, _N_FF)

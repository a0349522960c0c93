"""Check a model's tokenizer tables without building a vocabulary.

Knows which tables llama.cpp reads by index without asking how long they are (src/llama-vocab.cpp), and that
it cuts byte tokens at fixed positions.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from edgeapp.cleantext import clean_line
from edgeapp.errors import InvalidModel, UnsupportedModel
from edgeapp.gguf_info.header import FLOAT32_TYPE, INT32_TYPE, STRING_TYPE, UINT32_TYPE, Header, Span
from edgeapp.gguf_info.reader import DAMAGED

TOKENIZERS = frozenset(
    {"bert", "gemma4", "gpt2", "hybriddna", "llama", "none", "no_vocab", "plamo2", "rwkv", "t5", "whitespace"}
)
"""`tokenizer.ggml.model` values, from llama_vocab::impl::load; `test` is left out on purpose."""
_WITHOUT_TOKENS = frozenset({"none", "no_vocab"})
_WITH_BYTE_TOKENS = frozenset({"gemma4", "llama", "plamo2", "t5"})
_BYTE_TOKEN = re.compile(rb"<0x[0-9A-F]{2}>")
_BYTE_TYPE = 6  # LLAMA_TOKEN_TYPE_BYTE (include/llama.h)
_NO_TOKEN = frozenset({-1, 0xFFFF_FFFF})  # LLAMA_TOKEN_NULL, signed and unsigned
_PREFIX = "tokenizer.ggml."


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    model: str
    pre: str
    n_vocab: int


def read_vocabulary(header: Header, arch: str) -> Vocabulary:
    """Raise `UnsupportedModel` for an unknown tokenizer and `InvalidModel` for tables that do not fit."""
    model = header.text(_PREFIX + "model")
    if model is None:
        raise InvalidModel(f"{header.shown} carries no tokenizer.", hint="Get a complete conversion.")
    if model not in TOKENIZERS:
        raise UnsupportedModel(
            f'{header.shown} has the tokenizer "{clean_line(model, max_chars=60)}", '
            "which llama.cpp does not know.",
            hint="A newer edgeapp may run it.",
        )
    pre = header.text(_PREFIX + "pre") or ""
    if model in _WITHOUT_TOKENS:
        n_vocab = header.integer(f"{arch}.vocab_size") or 0
        return Vocabulary(model=model, pre=pre, n_vocab=n_vocab)
    tokens = _table(header, "tokens", types=frozenset({STRING_TYPE}), n_vocab=1)
    if tokens is None:
        raise InvalidModel(f"{header.shown} carries no tokens.", hint="Get a complete conversion.")
    _check_tables(header, model, tokens)
    _check_special_ids(header, tokens.count)
    return Vocabulary(model=model, pre=pre, n_vocab=tokens.count)


def _table(header: Header, name: str, *, types: frozenset[int], n_vocab: int) -> Span | None:
    """Return `tokenizer.ggml.<name>`, which must hold at least `n_vocab` elements of one of `types`."""
    span = header.array(_PREFIX + name)
    if span is not None and (span.type_id not in types or span.count < n_vocab):
        raise InvalidModel(
            f"{header.shown}: {_PREFIX}{name} has {span.count} elements of type {span.type_id}, "
            f"which do not fit {n_vocab} tokens.",
            hint=DAMAGED,
        )
    return span


def _check_tables(header: Header, model: str, tokens: Span) -> None:
    four_bytes = frozenset({INT32_TYPE, UINT32_TYPE})
    _table(header, "scores", types=four_bytes | {FLOAT32_TYPE}, n_vocab=tokens.count)
    _table(header, "merges", types=frozenset({STRING_TYPE}), n_vocab=0)
    token_types = _table(header, "token_type", types=four_bytes, n_vocab=tokens.count)
    if token_types is not None and model in _WITH_BYTE_TOKENS:
        _check_byte_tokens(header, tokens, token_types)


def _check_byte_tokens(header: Header, tokens: Span, token_types: Span) -> None:
    types = struct.unpack_from(f"<{tokens.count}i", header.raw, token_types.start)
    if _BYTE_TYPE not in types:
        return
    position, raw = tokens.start, header.raw
    unpack = struct.Struct("<Q").unpack_from
    for token_id, token_type in enumerate(types):
        (n_bytes,) = unpack(raw, position)
        position += 8
        if token_type == _BYTE_TYPE and not _BYTE_TOKEN.fullmatch(raw, position, position + n_bytes):
            text = bytes(raw[position : position + n_bytes]).decode("utf-8", "replace")
            raise InvalidModel(
                f'{header.shown}: token {token_id} stands for a byte but reads "{clean_line(text)}" '
                "instead of <0x00> to <0xFF>.",
                hint=DAMAGED,
            )
        position += n_bytes


def _check_special_ids(header: Header, n_vocab: int) -> None:
    for key in header.values:
        if not (key.startswith(_PREFIX) and key.endswith("_token_id")):
            continue
        token_id = header.integer(key)
        if token_id is not None and token_id not in _NO_TOKEN and not 0 <= token_id < n_vocab:
            raise InvalidModel(
                f"{header.shown}: {clean_line(key)} is {token_id}, but there are {n_vocab} tokens.",
                hint=DAMAGED,
            )

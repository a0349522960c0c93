"""The vocabulary: text to tokens and back."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, NewType

from edgeapp.engine.bindings.library import c
from edgeapp.errors import EngineError

if TYPE_CHECKING:
    from edgeapp.engine.bindings.weights import ModelHandle

VocabHandle = NewType("VocabHandle", int)
VOCAB_TYPE_BPE = 2  # llama.h, enum llama_vocab_type


@dataclass(frozen=True, kw_only=True)
class VocabFacts:
    """`control_texts` and `user_defined_texts` are strings that special parsing turns into one token each."""

    n_tokens: int
    is_bpe: bool
    bos: int | None
    eos: int | None
    add_bos: bool
    control_texts: tuple[str, ...]
    user_defined_texts: tuple[str, ...]


def get_vocab(model: ModelHandle) -> VocabHandle:
    return VocabHandle(c.llama_model_get_vocab(model))


def vocab_facts(vocab: VocabHandle) -> VocabFacts:
    n_tokens: int = c.llama_vocab_n_tokens(vocab)
    bos, eos = c.llama_vocab_bos(vocab), c.llama_vocab_eos(vocab)
    control_texts, user_defined_texts = _special_texts(vocab, n_tokens)
    return VocabFacts(
        n_tokens=n_tokens,
        is_bpe=c.llama_vocab_type(vocab) == VOCAB_TYPE_BPE,
        bos=bos if bos >= 0 else None,
        eos=eos if eos >= 0 else None,
        add_bos=bool(c.llama_vocab_get_add_bos(vocab)),
        control_texts=control_texts,
        user_defined_texts=user_defined_texts,
    )


def _special_texts(vocab: VocabHandle, n_tokens: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the texts of control and of user-defined tokens, in one walk: each call costs a microsecond."""
    attribute, control, user_defined = (
        c.llama_vocab_get_attr,
        c.LLAMA_TOKEN_ATTR_CONTROL,
        c.LLAMA_TOKEN_ATTR_USER_DEFINED,
    )
    attributes = ((token, attribute(vocab, token)) for token in range(n_tokens))
    special = [
        (token_text(vocab, token), bits) for token, bits in attributes if bits & (control | user_defined)
    ]
    return (
        tuple(text for text, bits in special if bits & control and text.strip()),
        tuple(text for text, bits in special if bits & user_defined and text.strip()),
    )


def token_text(vocab: VocabHandle, token: int) -> str:
    text: bytes = c.llama_vocab_get_text(vocab, token)
    return text.decode("utf-8", "replace")


def is_eog(vocab: VocabHandle, token: int) -> bool:
    return bool(c.llama_vocab_is_eog(vocab, token))


def tokenize(vocab: VocabHandle, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
    data = text.encode("utf-8", "replace")
    room = len(data) + 8  # never more tokens than bytes, plus BOS and EOS
    tokens = (ctypes.c_int32 * room)()
    count = c.llama_tokenize(vocab, data, len(data), tokens, room, add_special, parse_special)
    if count < 0:
        raise EngineError(f"llama.cpp could not tokenise a text of {len(data)} bytes.")
    return tokens[:count]


def token_to_piece(vocab: VocabHandle, token: int, *, special: bool = False) -> bytes:
    """Return the token's bytes; control tokens have some only when `special`."""
    buffer = ctypes.create_string_buffer(256)
    length = c.llama_token_to_piece(vocab, token, buffer, len(buffer), 0, special)
    if length < 0:
        buffer = ctypes.create_string_buffer(-length)
        length = c.llama_token_to_piece(vocab, token, buffer, len(buffer), 0, special)
    return buffer.raw[:length]

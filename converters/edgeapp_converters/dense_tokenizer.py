"""Write a GGUF's byte-level BPE vocabulary back as the files of a checkpoint. Knows no weights."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from edgeapp.errors import InvalidModel, UnsupportedModel
from edgeapp.gguf_info.header import STRING_TYPE
from edgeapp.gguf_info.reader import DAMAGED

if TYPE_CHECKING:
    from edgeapp.gguf_info.header import Header

_PREFIX = "tokenizer.ggml."
_CONTROL = 3  # LLAMA_TOKEN_TYPE_CONTROL (include/llama.h)
_NAMED = {
    "bos": "bos_token",
    "eos": "eos_token",
    "unknown": "unk_token",
    "padding": "pad_token",
}
"""`tokenizer.ggml.<key>_token_id` → its field in tokenizer_config.json."""


@dataclass(frozen=True, kw_only=True)
class DenseTokenizer:
    """A vocabulary by id, its merges, and which ids stand for something other than text."""

    tokens: tuple[str, ...]
    merges: tuple[str, ...]
    special_ids: tuple[int, ...]
    named_ids: dict[str, int]
    """tokenizer_config.json's field → id."""
    chat_template: str | None
    add_bos: bool
    max_tokens: int


def read_dense_tokenizer(header: Header, *, max_tokens: int) -> DenseTokenizer:
    """Return the tokenizer in a checked header.

    Raise `UnsupportedModel` unless it is byte-level BPE with the pre-tokenizer `smollm`, the one that is
    known to come back unchanged from `tokenizer_files`.
    """
    model, pre = header.text(_PREFIX + "model"), header.text(_PREFIX + "pre")
    if (model, pre) != ("gpt2", "smollm"):
        raise UnsupportedModel(
            f"{header.shown} has the tokenizer {model} with the pre-tokenizer {pre}.",
            hint="Only SmolLM2's tokenizer (gpt2, smollm) can be written back as a checkpoint.",
        )
    tokens = _strings(header, "tokens")
    template = header.text_bytes("tokenizer.chat_template")
    return DenseTokenizer(
        tokens=tokens,
        merges=_strings(header, "merges"),
        special_ids=_special_ids(header, len(tokens)),
        named_ids=_named_ids(header, len(tokens)),
        chat_template=None if template is None else template.decode("utf-8", "strict"),
        add_bos=header.values.get(_PREFIX + "add_bos_token") is True,
        max_tokens=max_tokens,
    )


def tokenizer_files(tokenizer: DenseTokenizer) -> dict[str, str]:
    """Return the texts of tokenizer.json, tokenizer_config.json and generation_config.json by name."""
    return {
        "tokenizer.json": _tokenizer_json(tokenizer),
        "tokenizer_config.json": _pretty(_tokenizer_config(tokenizer)),
        "generation_config.json": _pretty(special_token_ids(tokenizer)),
    }


def special_token_ids(tokenizer: DenseTokenizer) -> dict[str, int]:
    """Return the ids of the named tokens as config.json and generation_config.json give them."""
    fields = ("bos_token", "eos_token", "pad_token")
    return {f"{field}_id": tokenizer.named_ids[field] for field in fields if field in tokenizer.named_ids}


def _tokenizer_json(tokenizer: DenseTokenizer) -> str:
    vocabulary = {token: token_id for token_id, token in enumerate(tokenizer.tokens)}
    pairs = [_pair(merge) for merge in tokenizer.merges]
    built = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    # llama.cpp's `smollm`: every digit alone, then GPT-2's expression (src/llama-vocab.cpp)
    digits = pre_tokenizers.Digits(individual_digits=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)
    built.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    built.decoder = decoders.ByteLevel()
    special = [tokenizer.tokens[token_id] for token_id in tokenizer.special_ids]
    built.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return str(built.to_str())


def _tokenizer_config(tokenizer: DenseTokenizer) -> dict[str, Any]:
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": tokenizer.max_tokens,
        "add_bos_token": tokenizer.add_bos,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
    }
    config |= {field: tokenizer.tokens[token_id] for field, token_id in tokenizer.named_ids.items()}
    if tokenizer.chat_template is not None:
        config["chat_template"] = tokenizer.chat_template
    config["added_tokens_decoder"] = {
        str(token_id): _added_token(tokenizer.tokens[token_id]) for token_id in tokenizer.special_ids
    }
    return config


def _added_token(content: str) -> dict[str, Any]:
    plain = {"normalized": False, "lstrip": False, "rstrip": False, "single_word": False}
    return {"content": content, "special": True, **plain}


def _pair(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    return left, right


def _pretty(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _strings(header: Header, name: str) -> tuple[str, ...]:
    span = header.array(_PREFIX + name)
    if span is None or span.type_id != STRING_TYPE:
        raise InvalidModel(f"{header.shown} carries no {_PREFIX}{name}.", hint=DAMAGED)
    strings: list[str] = []
    position = span.start
    for _ in range(span.count):
        start = position + 8
        position = start + int.from_bytes(header.raw[position:start], "little")
        strings.append(_decoded(header, bytes(header.raw[start:position])))
    return tuple(strings)


def _decoded(header: Header, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as problem:
        raise InvalidModel(f"{header.shown}: its vocabulary is not UTF-8.", hint=DAMAGED) from problem


def _special_ids(header: Header, n_vocab: int) -> tuple[int, ...]:
    span = header.array(_PREFIX + "token_type")
    if span is None:
        return ()
    types = struct.unpack_from(f"<{n_vocab}i", header.raw, span.start)
    return tuple(token_id for token_id, kind in enumerate(types) if kind == _CONTROL)


def _named_ids(header: Header, n_vocab: int) -> dict[str, int]:
    found = {field: header.integer(f"{_PREFIX}{key}_token_id") for key, field in _NAMED.items()}
    return {
        field: token_id
        for field, token_id in found.items()
        if token_id is not None and 0 <= token_id < n_vocab
    }

"""Byte-level BPE from tokenizer.json, as llama.cpp's converter writes it. Knows no model family."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gguf import TokenType

from edgeapp.errors import InvalidCheckpoint
from edgeapp_converters.metadata import Metadata, i32s, string, strings
from edgeapp_converters.raw_json import items
from edgeapp_converters.tokenizer_files import TOKENIZER
from edgeapp_converters.vocabulary import Vocabulary, looks_special, visible_spaces

if TYPE_CHECKING:
    from edgeapp_converters.tokenizer_files import TokenizerFiles


def byte_level_keys(files: TokenizerFiles, n_vocab: int | None, *, pre: str) -> Metadata:
    """Return tokens, types and merges. `n_vocab` is config.json's vocab_size, `pre` the pre-tokenizer."""
    vocabulary = byte_level_vocabulary(files, n_vocab)
    return {
        "tokenizer.ggml.model": string("gpt2"),
        "tokenizer.ggml.pre": string(pre),
        "tokenizer.ggml.tokens": strings(vocabulary.tokens),
        "tokenizer.ggml.token_type": i32s(vocabulary.types),
        "tokenizer.ggml.merges": strings(merges(files)),
    }


def byte_level_vocabulary(files: TokenizerFiles, n_vocab: int | None) -> Vocabulary:
    """Return the tokens by id; ids without a token are unused, added tokens control or user-defined.

    Source: llama.cpp, conversion/base.py, get_vocab_base.
    """
    tokenizer = files.tokenizer
    vocabulary = Vocabulary.unused(required_size(files.vocabulary, n_vocab))
    for token, number in files.vocabulary.items():
        vocabulary.put(number, token, TokenType.NORMAL)
    for number, added in tokenizer.get_added_tokens_decoder().items():
        token = added.content
        if not added.normalized:
            ids = tokenizer.encode(token, add_special_tokens=False).ids
            token = tokenizer.decode(ids, skip_special_tokens=False)
        if added.special or looks_special(token):
            vocabulary.put(number, token, TokenType.CONTROL)
        else:
            vocabulary.put(number, visible_spaces(token), TokenType.USER_DEFINED)
    return vocabulary


def required_size(known: dict[str, int], n_vocab: int | None) -> int:
    """Return how many tokens the GGUF has. Raise `InvalidCheckpoint` when weights lack rows for some."""
    needed = max(known.values(), default=-1) + 1
    if not needed:
        raise InvalidCheckpoint(f"{TOKENIZER} has no tokens.", hint="Get the file again.")
    if n_vocab is not None and needed > n_vocab:
        raise InvalidCheckpoint(
            f"{TOKENIZER} has token ids up to {needed - 1}, but config.json says vocab_size {n_vocab}.",
            hint="Tokenizer and weights do not belong together; get both again.",
        )
    return needed if n_vocab is None else n_vocab


def merges(files: TokenizerFiles) -> list[str]:
    """Return the merges as `left right`; a space inside a part is written Ġ (gguf/vocab.py)."""
    pairs = merge_pairs(files)
    if not pairs:
        raise InvalidCheckpoint(f"{TOKENIZER} has no merges.", hint="Get the file again.")
    return [" ".join(part.replace(" ", "Ġ") for part in pair) for pair in pairs]


def merge_pairs(files: TokenizerFiles) -> list[tuple[str, str]]:
    """Return the merges in order; tokenizer.json has them as `left right` or, newer, as a list of two."""
    return [_pair(entry) for entry in items(files.model.get("merges"))]


def _pair(entry: object) -> tuple[str, str]:
    parts = entry.split(" ") if isinstance(entry, str) else items(entry)
    match parts:
        case [str(left), str(right)]:
            return left, right
        case _:
            raise InvalidCheckpoint(
                f"{TOKENIZER} has a merge that is not a pair of tokens.",
                hint="The file is damaged; get it again.",
            )

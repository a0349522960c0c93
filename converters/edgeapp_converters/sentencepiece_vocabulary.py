"""SentencePiece vocabularies, from tokenizer.model or from a tokenizer.json that was made of one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gguf import TokenType
from sentencepiece import SentencePieceProcessor

from edgeapp.cleantext import clean_line
from edgeapp.errors import InvalidCheckpoint, UnsupportedCheckpoint
from edgeapp_converters.bpe import merge_pairs, required_size
from edgeapp_converters.events import Warned
from edgeapp_converters.sentencepiece_kind import model_kind
from edgeapp_converters.tokenizer_files import MAX_TOKEN_ID, SENTENCEPIECE, require_token, token_id
from edgeapp_converters.vocabulary import Vocabulary, looks_special, visible_spaces

if TYPE_CHECKING:
    from edgeapp_converters.events import Report
    from edgeapp_converters.tokenizer_files import TokenizerFiles

_ADDED_SCORE = -1000.0
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_DAMAGED = "Get the file again from the original repository."


def processor(files: TokenizerFiles) -> SentencePieceProcessor:
    """Return the tokenizer of tokenizer.model.

    Raise `InvalidCheckpoint` when it is damaged, `UnsupportedCheckpoint` when it is no BPE: llama.cpp merges
    pairs by score, which is what SentencePiece's BPE does and its unigram model does not.
    """
    data = files.content(SENTENCEPIECE)
    try:
        kind = model_kind(data)
        pieces = SentencePieceProcessor(model_proto=data)
        n_pieces = pieces.vocab_size()
    except (RuntimeError, ValueError) as problem:
        reason = clean_line(str(problem), max_chars=120)
        raise InvalidCheckpoint(f"{SENTENCEPIECE} is damaged: {reason}.", hint=_DAMAGED) from problem
    if not 0 < n_pieces <= MAX_TOKEN_ID:
        raise InvalidCheckpoint(f"{SENTENCEPIECE} has {n_pieces} tokens.", hint=_DAMAGED)
    if kind != "bpe":
        raise UnsupportedCheckpoint(
            f"{SENTENCEPIECE} holds SentencePiece's {kind} model; llama.cpp would split text differently.",
            hint="Only SentencePiece's BPE can be converted for this family.",
        )
    return pieces


def read(files: TokenizerFiles, n_vocab: int | None, report: Report) -> Vocabulary:
    """Return the pieces of tokenizer.model with their scores, and the tokens added beside it.

    Source: llama.cpp, conversion/base.py, _create_vocab_sentencepiece.
    """
    pieces = processor(files)
    vocabulary = Vocabulary.unused(n_vocab or pieces.vocab_size())
    for number in range(pieces.vocab_size()):
        vocabulary.put(number, _piece(pieces, number), _kind(pieces, number), pieces.get_score(number))
    for token, number in files.json_object("added_tokens.json").items():
        require_token(token)
        vocabulary.put(token_id(number), token, TokenType.USER_DEFINED, _ADDED_SCORE)
    for number, added in files.added_tokens.items():
        _put_added(vocabulary, number, added.content, is_special=added.special)
    if vocabulary.n_left_out:
        report(
            Warned(
                message=f"The tokenizer has {vocabulary.n_left_out} tokens beyond the model's {n_vocab}; "
                "they are left out, as no weights belong to them."
            )
        )
    return vocabulary


def from_merges(files: TokenizerFiles, n_vocab: int | None) -> Vocabulary:
    """Return the vocabulary of a tokenizer.json whose BPE came from SentencePiece.

    The file has merges instead of scores. A token gets minus the rank of the merge that makes it, which is
    the order that SentencePiece's scores stand for. llama.cpp's converter (gguf/vocab.py, LlamaHfVocab)
    gives all tokens the same score instead, and its result splits text differently from the original.
    """
    vocabulary = Vocabulary.unused(required_size(files.vocabulary, n_vocab))
    ranks = _ranks(files)
    for token, number in files.vocabulary.items():
        kind = TokenType.BYTE if _BYTE.fullmatch(token) else TokenType.NORMAL
        vocabulary.put(number, token, kind, -float(ranks.get(token, len(ranks))))
    for number, added in files.tokenizer.get_added_tokens_decoder().items():
        _put_added(vocabulary, number, added.content, is_special=added.special)
    return vocabulary


def _piece(pieces: SentencePieceProcessor, number: int) -> str:
    try:
        piece = str(pieces.id_to_piece(number))
    except UnicodeDecodeError as problem:
        raise InvalidCheckpoint(
            f"Token {number} of {SENTENCEPIECE} is not UTF-8.", hint=_DAMAGED
        ) from problem
    require_token(piece)
    return piece


def _kind(pieces: SentencePieceProcessor, number: int) -> TokenType:
    if pieces.is_unknown(number):
        return TokenType.UNKNOWN
    if pieces.is_control(number):
        return TokenType.CONTROL
    if pieces.is_unused(number):
        return TokenType.UNUSED
    return TokenType.BYTE if pieces.is_byte(number) else TokenType.NORMAL


def _put_added(vocabulary: Vocabulary, number: int, token: str, *, is_special: bool) -> None:
    if is_special or looks_special(token):
        vocabulary.put(number, token, TokenType.CONTROL, _ADDED_SCORE)
    else:
        vocabulary.put(number, visible_spaces(token), TokenType.USER_DEFINED, _ADDED_SCORE)


def _ranks(files: TokenizerFiles) -> dict[str, int]:
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merge_pairs(files)):
        ranks.setdefault(left + right, rank)
    return ranks

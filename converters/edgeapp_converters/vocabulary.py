"""Tokens with their types and scores, in order of their ids. Knows no file."""

from __future__ import annotations

from dataclasses import dataclass

from gguf import TokenType

_SEEM_SPECIAL = {"<pad>", "<mask>", "<2mass>", "[@BOS@]"}
_UNUSED_SCORE = -10000.0


@dataclass(kw_only=True)
class Vocabulary:
    """Filled while a tokenizer is read, then only read."""

    tokens: list[str]
    types: list[int]
    scores: list[float]
    n_left_out: int = 0
    """Tokens whose id was beyond the vocabulary."""

    @classmethod
    def unused(cls, n_tokens: int) -> Vocabulary:
        """Return a vocabulary of `n_tokens` placeholders, as llama.cpp's converter writes them."""
        return cls(
            tokens=[f"[PAD{number}]" for number in range(n_tokens)],
            types=[int(TokenType.UNUSED)] * n_tokens,
            scores=[_UNUSED_SCORE] * n_tokens,
        )

    def put(self, number: int, token: str, kind: TokenType, score: float = 0.0) -> None:
        """Set a token; one beyond the vocabulary is left out, as the converter does."""
        if 0 <= number < len(self.tokens):
            self.tokens[number] = token
            self.types[number] = int(kind)
            self.scores[number] = score
        else:
            self.n_left_out += 1


def looks_special(token: str) -> bool:
    """Tell whether a token ought to be a control token although its file does not mark it.

    Source: llama.cpp, conversion/base.py, does_token_look_special.
    """
    return (
        token in _SEEM_SPECIAL
        or (token.startswith("<|") and token.endswith("|>"))
        or (token.startswith("<｜") and token.endswith("｜>"))
        or (token.startswith("<unused") and token.endswith(">"))
    )


def visible_spaces(token: str) -> str:
    """Return a user-defined token with real spaces for SentencePiece's mark."""
    return token.replace("▁", " ")

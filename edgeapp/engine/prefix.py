"""Remember what is in the KV cache, so that the next turn computes only what is new.

Pure bookkeeping: knows the tokens of one sequence and the prompt text they stand for, no llama.cpp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class Prefix:
    """The tokens whose KV is present, in order, and the rendered text that produced them."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.text = ""

    def clear(self) -> None:
        self.tokens.clear()
        self.text = ""

    def truncate(self, n_keep: int) -> None:
        """Keep the first `n_keep` tokens; the text no longer matches them, so it is forgotten."""
        if n_keep < len(self.tokens):
            del self.tokens[n_keep:]
            self.text = ""

    def common(self, tokens: Sequence[int]) -> int:
        """Return how many leading tokens of `tokens` are already present."""
        shared = 0
        for ours, theirs in zip(self.tokens, tokens, strict=False):
            if ours != theirs:
                break
            shared += 1
        return shared

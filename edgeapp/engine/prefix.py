"""Remember what is in the KV cache, so that the next turn computes only what is new.

Pure bookkeeping: knows the tokens of one sequence and the UTF-8 they stand for, no llama.cpp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class Prefix:
    """The tokens whose KV is present, in order, and the rendered prompt and answer that they spell.

    The text is kept as bytes, because a token may end in the middle of a character.
    """

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.rendered = b""

    def clear(self) -> None:
        self.tokens.clear()
        self.rendered = b""

    def truncate(self, n_keep: int) -> None:
        """Keep the first `n_keep` tokens; what they spell is then unknown."""
        if n_keep < len(self.tokens):
            del self.tokens[n_keep:]
            self.rendered = b""

    def common(self, tokens: Sequence[int]) -> int:
        """Return how many leading tokens of `tokens` are already present."""
        shared = 0
        for ours, theirs in zip(self.tokens, tokens, strict=False):
            if ours != theirs:
                break
            shared += 1
        return shared

    def rest_of(self, prompt: str) -> str | None:
        """Return what follows the known text in `prompt`; None when the prompt does not begin with it."""
        data = prompt.encode()
        if not self.rendered or not data.startswith(self.rendered):
            return None
        try:
            return data[len(self.rendered) :].decode()
        except UnicodeDecodeError:  # the last known token ends in the middle of a character
            return None

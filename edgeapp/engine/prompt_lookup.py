"""Guess what comes next in a text by finding where its end has occurred before. Pure: knows numbers only.

Prompt lookup decoding with the hash chains of deflate (RFC 1951, section 4): the occurrences of the last
two tokens are walked, newest first, for the longest match.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

RESUMED = 1
"""What `n_matched` says one token behind the end of a match: a copy mostly goes on behind an edit."""
MAX_MATCH = 32
"""A match of this many tokens is as good as a longer one."""
MIN_RESUMED_MATCH = 4
"""A shorter match that has ended is forgotten."""
MAX_CHAIN = 32
"""Most occurrences that are looked at, so that a token's cost has a bound."""


class PromptLookup:
    """One sequence's tokens and what they say about its next."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._newest: dict[int, int] = {}
        """Index behind the newest occurrence of a pair of tokens."""
        self._older: list[int] = []
        """For the pair that ends before index i, at i - 1: the index behind its older occurrence, or 0."""
        self._next = 0
        self._n_matched = 0
        self._n_searched = 0

    def extend(self, tokens: Sequence[int]) -> None:
        """Append `tokens` to the sequence."""
        known, newest, older = self._tokens, self._newest, self._older
        before = known[-1] if known else None
        for token in tokens:
            self._follow(token)
            known.append(token)
            pair = token if before is None else (before + 1) << 32 | token
            older.append(newest.get(pair, 0))
            newest[pair] = len(known)
            before = token

    def n_matched(self) -> int:
        """Return how many tokens at the end occurred before: 2 to `MAX_MATCH`, or `RESUMED`, or 0."""
        if self._n_searched != len(self._tokens):
            self._n_searched = len(self._tokens)
            self._search()
        return self._n_matched

    def draft(self, limit: int) -> list[int]:
        """Return `limit` tokens that followed where the end of the sequence occurred before, or none.

        Where that runs into the end itself, the draft goes on with its own tokens: a period is repeated.
        """
        if limit <= 0 or not self.n_matched():
            return []
        draft = self._tokens[self._next : self._next + limit]
        period = len(draft)
        while len(draft) < limit:
            draft.append(draft[-period])
        return draft

    def _follow(self, token: int) -> None:
        """Go on with the match when `token` is what it says, or behind one token that is not."""
        if self._n_matched and self._tokens[self._next] == token:
            self._next += 1
            self._n_matched = min(self._n_matched + 1, MAX_MATCH)
        elif self._n_matched >= MIN_RESUMED_MATCH:
            self._next += 1
            self._n_matched = RESUMED
        else:
            self._n_matched = 0

    def _search(self) -> None:
        """Look for a longer match than the one that was followed; of equal ones the newest wins."""
        candidate = self._older[-1] if self._older else 0
        for _ in range(MAX_CHAIN):
            if not candidate or self._n_matched == MAX_MATCH:
                return
            length = self._common_end(candidate)
            if length > self._n_matched:
                self._next, self._n_matched = candidate, length
            candidate = self._older[candidate - 1]

    def _common_end(self, end: int) -> int:
        """Return how many tokens before index `end` equal those at the end of the sequence."""
        tokens, most = self._tokens, min(end, MAX_MATCH)
        for length in range(most):
            if tokens[end - 1 - length] != tokens[-1 - length]:
                return length
        return most

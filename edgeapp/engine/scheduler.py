"""Decide what the next decode computes: which slots, and how many tokens of each.

Pure arithmetic: knows no token, no KV cache and no clock. Every step mixes the next token of all answers
with a slice of prompts that are still to be read, so a long prompt does not freeze the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PATIENCE_STEPS = 8
"""A slot that got nothing this many times in a row goes first."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one slot could compute next: either decode tokens, or a part of its prompt."""

    slot: int
    n_decode: int = 0
    """1 for the next token, and one more for each drafted one."""
    n_prefill: int = 0
    rank: int = 0
    """Prompts are read in this order: interactive before batch, then first come, first served."""
    n_skipped: int = 0
    """How many steps in a row it got nothing."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """`n_tokens` of slot `slot` are computed in this step; the last `n_rows` of them need logits."""

    slot: int
    n_tokens: int
    n_rows: int


def share_out(work: Sequence[Work], *, n_batch: int, n_rows: int, n_prefill: int) -> tuple[Share, ...]:
    """Return the shares of one step: at most `n_batch` tokens, of which at most `n_rows` with logits.

    While answers are being decoded, prompts get at most `n_prefill` tokens together. Whoever has waited
    `PATIENCE_STEPS` goes first, so with k slots each gets something in every `PATIENCE_STEPS` + k steps.
    """
    step = _Step(n_batch=n_batch, n_rows=n_rows)
    ordered = sorted(work, key=_urgency)
    for item in ordered:
        if item.n_skipped >= PATIENCE_STEPS:
            step.give(item, 1)
    decoding = [item for item in ordered if item.n_decode]
    for item in decoding:
        step.give(item, 1)
    budget = n_prefill if decoding else n_batch
    for item in (item for item in ordered if item.n_prefill):
        budget -= step.give(item, budget)
    for item in decoding:
        step.give(item, item.n_decode)
    return step.shares(ordered)


def _urgency(item: Work) -> tuple[bool, int, int]:
    is_patient = item.n_skipped < PATIENCE_STEPS
    return (is_patient, item.rank if is_patient else -item.n_skipped, item.slot)


class _Step:
    """What has been given out so far."""

    def __init__(self, *, n_batch: int, n_rows: int) -> None:
        self._n_batch = n_batch
        self._n_rows = n_rows
        self._given: dict[int, int] = {}

    def give(self, item: Work, most: int) -> int:
        """Raise what `item` gets to at most `most` tokens; return by how much."""
        had = self._given.get(item.slot, 0)
        wanted = min(most, item.n_decode or item.n_prefill) - had
        given = min(wanted, self._n_batch)
        if item.n_decode:
            given = min(given, self._n_rows)
        elif had + given == item.n_prefill and not self._n_rows:
            given -= 1  # the last token of a prompt needs a row
        if given <= 0:
            return 0
        self._given[item.slot] = had + given
        self._n_batch -= given
        self._n_rows -= given if item.n_decode else int(had + given == item.n_prefill)
        return given

    def shares(self, ordered: Iterable[Work]) -> tuple[Share, ...]:
        return tuple(
            Share(slot=item.slot, n_tokens=given, n_rows=_rows(item, given))
            for item in ordered
            if (given := self._given.get(item.slot, 0))
        )


def _rows(item: Work, given: int) -> int:
    return given if item.n_decode else int(given == item.n_prefill)

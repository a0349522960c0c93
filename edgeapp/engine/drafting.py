"""Decide how many tokens of a draft are worth checking, and learn from what was right. Pure.

Knows no llama.cpp: a `Source` guesses, the decode loop checks. Of all draft lengths the one is taken that
promises the most tokens per second, given how often such guesses were right and what a batch costs; none,
when plain decoding promises as much. So ordinary text is decoded as if there were no drafts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from edgeapp.engine.batch_cost import BatchCost
from edgeapp.engine.prompt_lookup import MAX_MATCH, PromptLookup

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MIN_GAIN = 1.06
"""A draft must promise this much over plain decoding, because the estimates are not exact."""
FIRST_PAUSE_TOKENS = 32
"""After so many tokens without a draft a costly source is tried again; if in vain, after twice as many."""
MAX_PAUSE_TOKENS = 1024
_MEMORY = 64.0
"""A hit rate is an average over about this many guesses."""
_PRIOR_GUESSES = 8.0

_LOOKUP_GRADES = (0, 0, 1, 2, 3) + (4,) * 3 + (5,) * 8 + (6,) * 16 + (7,) * (MAX_MATCH - 31)
"""By what `n_matched` says: a resumed copy, then matches of 2, 3, 4, 5 to 7, 8 to 15, 16 to 31, more."""
_LOOKUP_PRIORS = (0.35, 0.35, 0.50, 0.60, 0.78, 0.84, 0.92, 0.95)
"""Measured over 2,500 tokens of prose and 2,100 of edited code by SmolLM2-135M, and rounded down."""


class Source(Protocol):
    """Guesses how one sequence goes on."""

    @property
    def token_s(self) -> float:
        """Seconds that one guess takes; 0 for a source that is asked, and learns, for nothing."""

    def start(self, tokens: Sequence[int]) -> None:
        """Begin a sequence with a prompt."""

    def extend(self, tokens: Sequence[int]) -> None:
        """Append what was chosen."""

    def chances(self, limit: int) -> list[float]:
        """Return for up to `limit` next guesses how likely each is right when all before it are."""

    def draft(self, limit: int) -> list[int]:
        """Return up to `limit` guesses."""

    def checked(self, n_drafted: int, n_accepted: int) -> None:
        """Learn that of the last draft's first `n_drafted` tokens `n_accepted` were right."""


class HitRates:
    """How often guesses of each grade were right, of late."""

    def __init__(self, priors: Sequence[float]) -> None:
        self._right = [prior * _PRIOR_GUESSES for prior in priors]
        self._all = [_PRIOR_GUESSES for _ in priors]

    def chance(self, grade: int) -> float:
        return self._right[grade] / self._all[grade]

    def learn(self, grade: int, *, is_right: bool) -> None:
        self._shrink(grade, _MEMORY - 1)
        self._right[grade] += is_right
        self._all[grade] += 1

    def doubt(self) -> None:
        """Let what was learned count no more than a prior: another text begins."""
        for grade in range(len(self._all)):
            self._shrink(grade, _PRIOR_GUESSES)

    def _shrink(self, grade: int, n_guesses: float) -> None:
        if self._all[grade] > n_guesses:
            self._right[grade] *= n_guesses / self._all[grade]
            self._all[grade] = n_guesses


class LookupSource:
    """Guesses from the sequence's own past; the longer the match, the better the guess.

    Every chosen token is compared with what would have been guessed, so the hit rates are known without a
    draft.
    """

    token_s = 0.0

    def __init__(self) -> None:
        self._lookup = PromptLookup()
        self._rates = HitRates(_LOOKUP_PRIORS)

    def start(self, tokens: Sequence[int]) -> None:
        self._lookup = PromptLookup()
        self._lookup.extend(tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            n_matched = self._lookup.n_matched()
            if n_matched:
                is_right = self._lookup.draft(1) == [token]
                self._rates.learn(_LOOKUP_GRADES[n_matched], is_right=is_right)
            self._lookup.extend((token,))

    def chances(self, limit: int) -> list[float]:
        n_matched = self._lookup.n_matched()
        if not n_matched:
            return []
        lengths = range(n_matched, n_matched + limit)
        return [self._rates.chance(_LOOKUP_GRADES[min(length, MAX_MATCH)]) for length in lengths]

    def draft(self, limit: int) -> list[int]:
        return self._lookup.draft(limit)

    def checked(self, n_drafted: int, n_accepted: int) -> None:
        """Nothing: `extend` has learned it."""


class BetterOf:
    """Takes each draft from that of two sources whose next guess is likelier to be right."""

    def __init__(self, first: Source, second: Source) -> None:
        self._sources = (first, second)
        self._chosen = first

    @property
    def token_s(self) -> float:
        return self._chosen.token_s

    def start(self, tokens: Sequence[int]) -> None:
        for source in self._sources:
            source.start(tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        for source in self._sources:
            source.extend(tokens)

    def chances(self, limit: int) -> list[float]:
        first, second = (source.chances(limit) for source in self._sources)
        is_first = first[:1] >= second[:1]
        self._chosen = self._sources[0 if is_first else 1]
        return first if is_first else second

    def draft(self, limit: int) -> list[int]:
        return self._chosen.draft(limit)

    def checked(self, n_drafted: int, n_accepted: int) -> None:
        self._chosen.checked(n_drafted, n_accepted)


class Drafter:
    """What the decode loop asks for drafts of one sequence.

    `start`, then for every step `draft`, `report` when there was a draft, and `accept`.
    """

    def __init__(self, source: Source, *, max_tokens: int, batch_cost: BatchCost | None = None) -> None:
        """`batch_cost` is shared by all drafters of a context; the decode loop tells it what steps took."""
        self._source = source
        self._max_tokens = max_tokens
        self._cost = batch_cost or BatchCost()
        self._n_idle = 0
        self._n_pause = FIRST_PAUSE_TOKENS
        self._is_probing = False
        self.n_drafted = 0
        self.n_accepted = 0

    def start(self, prompt_tokens: Sequence[int]) -> None:
        """Begin a sequence."""
        self._source.start(prompt_tokens)

    def accept(self, tokens: Sequence[int]) -> None:
        """Append tokens that were chosen, drafted or not, the one still to be computed included."""
        self._source.extend(tokens)
        self._n_idle += len(tokens)

    def draft(self, limit: int, *, n_batch: int = 1) -> list[int]:
        """Return at most `limit` tokens worth checking in a step that decodes `n_batch` tokens anyway."""
        limit = min(limit, self._max_tokens)
        if limit <= 0:
            return []
        chances = self._source.chances(limit)
        token_s, step_s = self._source.token_s, self._cost.token_s
        token_cost = token_s / step_s if step_s else 0.0
        length = best_length(chances, self._cost, n_batch=n_batch, token_cost=token_cost)
        if not length:
            return self._probe() if token_s else []
        self._n_idle, self._n_pause, self._is_probing = 0, FIRST_PAUSE_TOKENS, False
        return self._source.draft(length)

    def report(self, n_drafted: int, n_accepted: int) -> None:
        """Say how many tokens of the last draft were checked, and how many were right."""
        self.n_drafted += n_drafted
        self.n_accepted += n_accepted
        self._source.checked(n_drafted, n_accepted)
        if self._is_probing:
            self._n_pause = FIRST_PAUSE_TOKENS if n_accepted else min(2 * self._n_pause, MAX_PAUSE_TOKENS)

    def _probe(self) -> list[int]:
        """Draft one token after a pause: the text may have become easier to guess."""
        draft = self._source.draft(1) if self._n_idle >= self._n_pause else []
        if draft:
            self._n_idle, self._is_probing = 0, True
        return draft


def best_length(
    chances: Sequence[float], batch_cost: Callable[[int], float], *, n_batch: int = 1, token_cost: float = 0.0
) -> int:
    """Return how many tokens to draft, 0 to `len(chances)`.

    `chances[i]` is the probability that guess i is right when all before it are. `n_batch` tokens are decoded
    anyway, and each guess costs `token_cost` in the unit of `batch_cost`. Maximises expected tokens per time,
    (n_batch + E[accepted]) / (batch_cost(n_batch + n) + n token_cost): theorem 3.8 of arXiv:2211.17192 with
    a measured batch cost and a chance for each position.
    """
    best, best_rate = 0, MIN_GAIN * n_batch / batch_cost(n_batch)
    expected, all_right = float(n_batch), 1.0
    for n_tokens, chance in enumerate(chances, 1):
        all_right *= chance
        expected += all_right
        rate = expected / (batch_cost(n_batch + n_tokens) + n_tokens * token_cost)
        if rate > best_rate:
            best, best_rate = n_tokens, rate
    return best

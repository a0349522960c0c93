"""Drafts are made where they pay, and only there."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeapp.engine.batch_cost import BatchCost
from edgeapp.engine.drafting import BetterOf, Drafter, HitRates, LookupSource, Source, best_length

if TYPE_CHECKING:
    from collections.abc import Sequence

COST = (0.0, 1.0, 1.49, 2.07, 2.32, 2.88, 3.11, 3.68, 3.88, 4.54)
"""Measured with SmolLM2-135M on two cores: tokens in the batch against the step of one."""


def words(seed: int, count: int, *, n_vocab: int = 5000) -> list[int]:
    drawn = random.Random(seed)
    return [drawn.randrange(n_vocab) for _ in range(count)]


def edited(tokens: list[int], *, every: int) -> list[int]:
    """Return a copy in which every so-many-th token is another one."""
    return [9000 + at if at % every == every - 1 else token for at, token in enumerate(tokens)]


@dataclass(frozen=True, kw_only=True)
class Decoded:
    steps: float
    """What it cost in steps of one token."""
    n_drafted: int
    n_accepted: int


def decode(prompt: list[int], answer: list[int], *, source: Source | None = None) -> Decoded:
    """Decode `answer` as a model would that says exactly this, on two cores."""
    cost = BatchCost()
    drafter = Drafter(source or LookupSource(), max_tokens=8, batch_cost=cost)
    drafter.start(prompt)
    drafter.accept(answer[:1])
    done, steps = 1, 0.0
    while done < len(answer):
        draft = drafter.draft(len(answer) - done - 1)
        right = 0
        while right < len(draft) and draft[right] == answer[done + right]:
            right += 1
        steps += COST[1 + len(draft)]
        cost.observe(1 + len(draft), 0.007 * COST[1 + len(draft)])
        if draft:
            drafter.report(len(draft), right)
        drafter.accept(answer[done : done + right + 1])
        done += right + 1
    return Decoded(steps=steps, n_drafted=drafter.n_drafted, n_accepted=drafter.n_accepted)


# The choice of a length ----------------------------------------------------------------------------------


@given(chances=st.lists(st.floats(0, 1), max_size=8), n_batch=st.integers(1, 40), token_cost=st.floats(0, 3))
def test_the_length_is_in_range_and_a_cost_never_makes_it_longer(
    chances: list[float], n_batch: int, token_cost: float
) -> None:
    def length(cost: float) -> int:
        return best_length(chances, BatchCost(), n_batch=n_batch, token_cost=cost)

    assert 0 <= length(token_cost) <= length(0.0) <= len(chances)


def test_a_draft_is_as_long_as_its_chances_and_the_machine_allow() -> None:
    def two_cores(n_tokens: int) -> float:
        return COST[n_tokens]

    assert best_length([0.4] * 8, two_cores) == 0
    assert best_length([0.8] * 8, two_cores) == 3
    assert best_length([1.0] * 8, two_cores) == 7
    assert best_length([0.4] * 8, lambda _n_tokens: 1.0) == 8
    assert best_length([0.8] * 8, two_cores, token_cost=0.5) == 0


# From the text itself ------------------------------------------------------------------------------------


def test_on_a_copy_nearly_everything_is_drafted_and_accepted() -> None:
    prompt = words(1, 600)
    copied = decode(prompt, prompt[50:450])
    assert copied.n_accepted == copied.n_drafted
    assert copied.n_accepted > 300
    assert copied.steps < 400 / 1.85


def test_an_edited_copy_is_much_faster_than_plain_decoding() -> None:
    prompt = words(2, 600)
    assert decode(prompt, edited(prompt[:400], every=20)).steps < 400 / 1.5


def test_drafting_costs_nothing_on_text_that_does_not_repeat() -> None:
    answer = words(4, 400)
    plain = decode(words(3, 600), answer)
    assert plain.n_drafted == 0
    assert plain.steps == len(answer) - 1


def test_matches_that_promise_and_do_not_keep_are_given_up_soon() -> None:
    """Pairs come back all the time here, but never with the same token behind."""
    drawn = random.Random(5)
    answer = [token for _ in range(200) for token in (1, 2, drawn.randrange(10, 5000))]
    assert decode(words(6, 100), answer).steps < len(answer) / 0.97


@given(
    prompt=st.lists(st.integers(0, 5), max_size=30),
    answer=st.lists(st.integers(0, 5), min_size=1, max_size=60),
)
def test_any_text_is_decoded_the_same_way_twice(prompt: list[int], answer: list[int]) -> None:
    once = decode(prompt, answer)
    assert once == decode(prompt, answer)
    assert once.steps <= 5 + 1.3 * len(answer)


@given(limit=st.integers(-2, 12), max_tokens=st.integers(0, 12))
def test_a_draft_is_never_longer_than_allowed(limit: int, max_tokens: int) -> None:
    drafter = Drafter(LookupSource(), max_tokens=max_tokens)
    drafter.start([1, 2, 3] * 20)
    assert len(drafter.draft(limit)) <= max(0, min(limit, max_tokens))


def test_a_new_sequence_knows_nothing_of_the_old_one() -> None:
    source = LookupSource()
    drafter = Drafter(source, max_tokens=8)
    drafter.start([1, 2, 3] * 20)
    assert drafter.draft(4) == [1, 2, 3, 1]
    drafter.start([4, 5, 1, 2])
    assert source.chances(4) == []


# From a source that costs something ----------------------------------------------------------------------


class Oracle:
    """Knows the text, and says something else for as long as it is told to."""

    def __init__(self, answer: list[int], *, wrong_until: int, token_s: float) -> None:
        self.token_s = token_s
        self.n_asked = 0
        self._answer = answer
        self._wrong_until = wrong_until
        self._at = 0
        self._rates = HitRates((0.7,) * 8)

    def start(self, tokens: Sequence[int]) -> None:
        """Begin at the answer's beginning."""

    def extend(self, tokens: Sequence[int]) -> None:
        self._at += len(tokens)

    def chances(self, limit: int) -> list[float]:
        return [self._rates.chance(grade) for grade in range(min(limit, 8))]

    def draft(self, limit: int) -> list[int]:
        self.n_asked += 1
        right = self._answer[self._at : self._at + limit]
        return right if self._at >= self._wrong_until else [-1 - token for token in right]

    def checked(self, n_drafted: int, n_accepted: int) -> None:
        for grade in range(min(n_accepted + 1, n_drafted)):
            self._rates.learn(grade, is_right=grade < n_accepted)


def test_a_costly_source_is_asked_ever_more_rarely_while_it_is_wrong() -> None:
    answer = words(7, 3000)
    source = Oracle(answer, wrong_until=len(answer), token_s=0.0007)
    assert decode([], answer, source=source).steps < len(answer) / 0.97
    assert 4 <= source.n_asked < 25


def test_a_costly_source_is_used_again_when_it_becomes_right() -> None:
    answer = words(8, 6000)
    source = Oracle(answer, wrong_until=100, token_s=0.0007)
    assert decode([], answer, source=source).n_accepted > 2000


def test_a_source_that_costs_more_than_it_saves_is_not_asked() -> None:
    answer = words(9, 500)
    source = Oracle(answer, wrong_until=0, token_s=0.0065)
    assert decode([], answer, source=source).n_drafted < 50


def test_of_two_sources_the_likelier_one_is_asked() -> None:
    answer = [*words(10, 200), *words(10, 200)]
    lookup, oracle = LookupSource(), Oracle(answer, wrong_until=0, token_s=0.0007)
    both = BetterOf(lookup, oracle)
    both.start([])
    both.extend(answer[:10])
    assert both.chances(3) == oracle.chances(3)
    assert both.token_s == oracle.token_s
    both.extend(answer[10:240])
    assert both.chances(3) == lookup.chances(3)
    assert both.token_s == 0.0
    assert both.draft(3) == answer[240:243]


def test_hit_rates_follow_what_happens_and_are_doubted_in_a_new_text() -> None:
    rates = HitRates((0.5,))
    for _ in range(300):
        rates.learn(0, is_right=True)
    assert rates.chance(0) > 0.95
    rates.doubt()
    for _ in range(8):
        rates.learn(0, is_right=False)
    assert rates.chance(0) == pytest.approx(0.5, abs=0.05)

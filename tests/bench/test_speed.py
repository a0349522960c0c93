"""The passages that are read, the room they need, and the speed of the real worker."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeapp.bench.speed import SPARE_TOKENS, check_room, measure_speed, passages
from edgeapp.errors import UsageError
from tests.runtime.engines import real_engine

if TYPE_CHECKING:
    from pathlib import Path


@given(n_text=st.integers(1, 50), n_tokens=st.integers(1, 30), count=st.integers(1, 10))
def test_every_passage_is_whole_and_comes_from_the_text(n_text: int, n_tokens: int, count: int) -> None:
    tokens = list(range(n_text))
    found = passages(tokens, n_tokens=n_tokens, count=count)
    assert [len(part) for part in found] == [n_tokens] * count
    for part in found:
        assert all(after == (before + 1) % n_text for before, after in pairwise(part))


def test_no_two_passages_of_a_long_text_share_a_token() -> None:
    found = passages(list(range(1000)), n_tokens=10, count=6)
    assert len({token for part in found for token in part}) == 60


def test_a_short_text_gives_passages_with_different_beginnings() -> None:
    found = passages(list(range(20)), n_tokens=10, count=3)
    assert len({part[0] for part in found}) == 3


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    check_room(512 + 128 + SPARE_TOKENS, n_prompt=512, n_decode=128)
    with pytest.raises(UsageError, match="context of 512") as problem:
        check_room(512, n_prompt=512, n_decode=128)
    assert problem.value.hint == "--prompt 224 --decode 128 would fit."
    check_room(512, n_prompt=224, n_decode=128)


async def test_the_speed_is_that_of_whole_passages_and_answers(tiny_moe: Path) -> None:
    steps: list[None] = []
    async with real_engine(tiny_moe) as client:
        speed = await measure_speed(
            client,
            "The quick brown fox jumps over the lazy dog. " * 40,
            n_prompt=40,
            n_decode=8,
            n_repeats=3,
            on_step=lambda: steps.append(None),
        )
    assert len(steps) == 4
    assert 40 <= speed.n_prompt_tokens <= 44
    assert speed.n_decode_tokens == 8
    for rate in (speed.prefill, speed.decode):
        assert 0 < rate.min_tps <= rate.median_tps <= rate.max_tps
    assert speed.ttft_s > 0

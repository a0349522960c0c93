"""What a batch costs is learned from what steps took."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeapp.engine.batch_cost import N_SIZES, PRIOR_SLOPE, BatchCost

if TYPE_CHECKING:
    from collections.abc import Callable

TWO_CORES = (0.0, 1.0, 1.49, 2.07, 2.32, 2.88, 3.11, 3.68, 3.88, 4.54)
"""Measured with SmolLM2-135M on two cores: tokens in the batch against the step of one."""


def taught(cost: Callable[[int], float], sizes: list[int], *, n_steps: int = 400) -> BatchCost:
    """Steps of these sizes in turn, 5 % of noise, one in fifty four times as long."""
    drawn, learned = random.Random(0), BatchCost()
    for step in range(n_steps):
        n_tokens = sizes[step % len(sizes)]
        disturbed = 4.0 if drawn.random() < 0.02 else 1.0
        learned.observe(n_tokens, 0.007 * cost(n_tokens) * drawn.gauss(1, 0.05) * disturbed)
    return learned


def test_before_the_first_step_costs_lie_on_the_line_of_a_small_cpu() -> None:
    assert [BatchCost()(n) for n in (1, 2, 9, 200)] == pytest.approx(
        [1 + PRIOR_SLOPE * n for n in (0, 1, 8, 199)]
    )


def test_every_measured_size_is_known_in_the_end() -> None:
    learned = taught(TWO_CORES.__getitem__, list(range(1, 10)))
    assert [learned(n) for n in range(1, 10)] == pytest.approx(TWO_CORES[1:], rel=0.08)
    assert learned.token_s == pytest.approx(0.007, rel=0.05)


def test_a_gpu_is_found_to_decode_a_batch_like_one_token() -> None:
    learned = taught(lambda _n_tokens: 1.0, [1, 1, 4, 9])
    assert learned(9) == pytest.approx(1.0, abs=0.1)
    assert learned(6) < 1.3  # not measured: from the sizes around


def test_a_size_that_once_seemed_too_dear_is_thought_of_again() -> None:
    learned = BatchCost()
    learned.observe(1, 0.01)
    for _ in range(5):
        learned.observe(6, 0.08)
    dear = learned(6)
    for _ in range(300):
        learned.observe(1, 0.01)
        learned.observe(4, 0.02)
    assert learned(6) < 0.65 * dear


@given(steps=st.lists(st.tuples(st.integers(-1, N_SIZES + 9), st.floats(-1, 1e6)), max_size=60))
def test_any_steps_give_positive_costs(steps: list[tuple[int, float]]) -> None:
    learned = BatchCost()
    for n_tokens, step_s in steps:
        learned.observe(n_tokens, step_s)
    assert all(0 < learned(n) < float("inf") for n in range(1, 100))
    assert learned.token_s >= 0

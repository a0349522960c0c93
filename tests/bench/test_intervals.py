"""The interval of a mean, for independent values and for values in clusters."""

from __future__ import annotations

import numpy as np
import pytest

from edgeapp.bench.intervals import mean_interval, wilson_interval


def test_independent_values_have_the_usual_interval() -> None:
    values = np.random.default_rng(1).exponential(size=10_000)
    low, high = mean_interval(values, cluster_length=100)
    assert low < 1 < high
    assert high - low == pytest.approx(2 * 1.96 / 100, rel=0.3)


def test_values_that_resemble_each_other_in_a_cluster_make_it_wider() -> None:
    of_clusters = np.random.default_rng(1).exponential(size=100)
    values = np.repeat(of_clusters, 100)
    low, high = mean_interval(values, cluster_length=100)
    assert high - low == pytest.approx(2 * 1.96 * of_clusters.std(ddof=1) / 10, rel=0.05)


def test_it_covers_the_mean_about_as_often_as_promised() -> None:
    random = np.random.default_rng(2)
    covered = 0
    for _ in range(300):
        values = (random.normal(size=(30, 1)) + random.normal(size=(30, 20))).ravel() + 5
        low, high = mean_interval(values, cluster_length=20)
        covered += low < 5 < high
    assert covered > 0.9 * 300


@pytest.mark.parametrize("values", [[0.25], [0.25, 0.25, 0.25]])
def test_one_value_or_equal_ones_have_no_spread(values: list[float]) -> None:
    assert mean_interval(np.array(values), cluster_length=2) == (0.25, 0.25)


def test_it_does_not_go_below_zero() -> None:
    assert mean_interval(np.array([0.0, 0.0, 0.0, 1.0]), cluster_length=4)[0] == 0.0


@pytest.mark.parametrize(
    ("n_right", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (81, 263, 0.2553, 0.3662),
        (0, 0, 0, 1),
    ],
)
def test_wilsons_interval_is_that_of_the_tables(n_right: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(n_right, n) == pytest.approx((low, high), abs=1e-4)

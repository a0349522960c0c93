"""The numbers of a comparison, against sums written out and published values."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgeapp_converters import statistics
from edgeapp_converters.statistics import joined, proportion_interval, ratio_interval, token_losses

if TYPE_CHECKING:
    from numpy.typing import NDArray

RANDOM = np.random.default_rng(11)


def logits(rows: int, n_vocab: int, *, scale: float = 3.0) -> NDArray[np.float32]:
    return (RANDOM.standard_normal((rows, n_vocab)) * scale).astype(np.float32)


def test_a_divergence_is_the_sum_over_the_whole_vocabulary() -> None:
    p, q = [0.5, 0.25, 0.25], [0.25, 0.5, 0.25]
    found = token_losses(np.log([p]).astype(np.float32), np.log([q]).astype(np.float32), [1])
    assert found.kld[0] == pytest.approx(0.5 * math.log(2) - 0.25 * math.log(2), rel=1e-6)
    assert found.nll_base[0] == pytest.approx(math.log(4), rel=1e-6)
    assert found.nll_quant[0] == pytest.approx(math.log(2), rel=1e-6)
    assert not found.same_top[0]


def test_only_differences_between_logits_count() -> None:
    base = logits(5, 100)
    found = token_losses(base, base + np.float32(50), [0, 1, 2, 3, 4])
    np.testing.assert_allclose(found.kld, 0, atol=1e-5)
    assert (found.kld >= 0).all()
    assert found.same_top.all()


def test_large_logits_do_not_overflow() -> None:
    base = np.array([[1e4, 0, -1e4]], dtype=np.float32)
    found = token_losses(base, base / np.float32(2), [0])
    assert found.kld[0] == 0
    assert found.nll_quant[0] == 0


def test_a_masked_token_adds_nothing() -> None:
    base = np.array([[0, 0, -np.inf]], dtype=np.float32)
    quant = np.array([[0, math.log(3), -np.inf]], dtype=np.float32)
    assert token_losses(base, quant, [0]).kld[0] == pytest.approx(
        0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75), rel=1e-6
    )


def test_how_many_rows_are_worked_on_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    base, quant, targets = logits(17, 50), logits(17, 50), list(range(17))
    whole = token_losses(base, quant, targets)
    monkeypatch.setattr(statistics, "_BLOCK_FLOATS", 150)
    blocks = token_losses(base, quant, targets)
    parts = joined(
        [token_losses(base[:4], quant[:4], targets[:4]), token_losses(base[4:], quant[4:], targets[4:])]
    )
    for other in (blocks, parts):
        assert other.kld.tolist() == whole.kld.tolist()
        assert other.nll_quant.tolist() == whole.nll_quant.tolist()
        assert other.same_top.tolist() == whole.same_top.tolist()


def test_delta_p_is_of_the_token_that_came() -> None:
    found = token_losses(
        np.log([[0.5, 0.5]]).astype(np.float32), np.log([[0.8, 0.2]]).astype(np.float32), [1]
    )
    assert statistics.rms_delta_p(found) == pytest.approx(0.3, rel=1e-6)


def test_an_interval_of_independent_tokens_is_wilsons() -> None:
    hits = np.array([True] * 81 + [False] * 182)  # Newcombe 1998, table I: 81 of 263
    low, high = proportion_interval(hits, cluster_length=263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


def test_an_interval_stays_between_0_and_1() -> None:
    low, high = proportion_interval(np.ones(100, dtype=np.bool_), cluster_length=10)
    assert 0.96 < low < high == 1


def test_chunks_that_differ_from_each_other_widen_the_interval() -> None:
    alike = np.tile([True, True, True, False], 250)
    apart = np.repeat([True, True, True, False], 250)
    widths = [
        high - low for low, high in (proportion_interval(hits, cluster_length=50) for hits in (alike, apart))
    ]
    assert widths[1] > 5 * widths[0]


def test_the_interval_of_a_ratio_holds_it_and_shrinks_with_more_items() -> None:
    widths = []
    for n in (100, 900):
        whole = np.arange(n) % 10 < 7
        part = whole & (np.arange(n) % 20 != 0)
        interval = ratio_interval(part, whole)
        assert interval is not None
        low, high = interval
        assert low < part.sum() / whole.sum() < high
        widths.append(high - low)
    assert widths[1] == pytest.approx(widths[0] / 3, rel=0.15)


def test_the_interval_of_a_ratio_is_paired_and_repeats() -> None:
    whole = RANDOM.random(200) < 0.6
    assert ratio_interval(whole, whole) == (1, 1)
    other = RANDOM.random(200) < 0.6
    assert ratio_interval(other, whole) == ratio_interval(other, whole)


def test_nothing_right_has_no_ratio() -> None:
    assert ratio_interval(np.ones(5, dtype=np.bool_), np.zeros(5, dtype=np.bool_)) is None

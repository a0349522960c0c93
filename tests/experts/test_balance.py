"""What counts say, against values worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeapp.experts import TextUsage
from edgeapp.experts.balance import layer_balance, text_difference
from edgeapp.protocol import LayerUsage

COUNTS = st.lists(st.integers(0, 1000), min_size=4, max_size=4).filter(any)


def text(name: str, *layers: list[int]) -> TextUsage:
    return TextUsage(
        name=name,
        n_tokens=sum(layers[0]),
        layers=tuple(LayerUsage(layer=index, counts=tuple(counts)) for index, counts in enumerate(layers)),
    )


def test_an_even_layer_has_evenness_one_and_no_favourite() -> None:
    balance = layer_balance(LayerUsage(layer=3, counts=(5, 5, 5, 5)))
    assert balance.evenness == pytest.approx(1.0)
    assert balance.busiest_share == 0.25
    assert balance.n_unused == 0


def test_a_layer_of_one_favourite_is_told_with_its_number() -> None:
    balance = layer_balance(LayerUsage(layer=3, counts=(0, 0, 8, 0)))
    assert (balance.evenness, balance.busiest_expert, balance.busiest_share) == (0.0, 2, 1.0)
    assert balance.n_unused == 3


def test_evenness_is_the_entropy_over_that_of_an_even_layer() -> None:
    balance = layer_balance(LayerUsage(layer=0, counts=(2, 2, 0, 0)))
    assert balance.evenness == pytest.approx(0.5)


def test_texts_without_a_common_expert_are_one_bit_apart() -> None:
    difference = text_difference(text("a", [4, 4, 0, 0]), text("b", [0, 0, 3, 9]))
    assert difference.overlap == 0
    assert difference.cosine == 0
    assert difference.divergence == pytest.approx(1.0)


def test_a_difference_worked_out_by_hand() -> None:
    difference = text_difference(text("a", [2, 2, 0, 0]), text("b", [4, 0, 0, 0]))
    assert difference.overlap == pytest.approx(0.5)
    assert difference.cosine == pytest.approx(math.sqrt(0.5))
    # The entropy of the mean, three quarters to one, less the mean of the entropies, 1 and 0.
    assert difference.divergence == pytest.approx(0.811278 - 0.5, abs=1e-6)


@given(one=COUNTS, other=COUNTS)
def test_a_difference_is_symmetric_and_bounded(one: list[int], other: list[int]) -> None:
    there = text_difference(text("a", one), text("b", other))
    back = text_difference(text("b", other), text("a", one))
    assert there.divergence == pytest.approx(back.divergence, abs=1e-12)
    assert 0 <= there.divergence <= 1 + 1e-9
    assert 0 <= there.overlap <= 1 + 1e-9
    assert 0 <= there.cosine <= 1 + 1e-9


@given(counts=COUNTS, factor=st.integers(1, 5))
def test_a_text_does_not_differ_from_itself_repeated(counts: list[int], factor: int) -> None:
    difference = text_difference(text("a", counts), text("b", [factor * count for count in counts]))
    assert difference.divergence == pytest.approx(0, abs=1e-9)
    assert difference.overlap == pytest.approx(1)
    assert difference.cosine == pytest.approx(1)


def test_the_farthest_layer_is_found() -> None:
    difference = text_difference(text("a", [4, 4], [8, 0], [4, 4]), text("b", [4, 4], [0, 8], [5, 3]))
    assert difference.farthest.layer == 1
    assert difference.divergence == pytest.approx(sum(layer.divergence for layer in difference.layers) / 3)


def test_chance_alone_explains_less_with_more_tokens() -> None:
    few = text_difference(text("a", [4, 4]), text("b", [5, 3])).by_chance
    many = text_difference(text("a", [400, 400]), text("b", [500, 300])).by_chance
    assert many == pytest.approx(few / 100)
    assert few == pytest.approx(1 / (8 * math.log(2)) * (1 / 8 + 1 / 8))

"""The heat map in both forms: it fits the screen, and brighter means used more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from edgeapp.experts import TextUsage, heat_map, shades
from edgeapp.protocol import LayerUsage


def usage(*layers: tuple[int, ...]) -> TextUsage:
    return TextUsage(
        name="text",
        n_tokens=sum(layers[0]),
        layers=tuple(LayerUsage(layer=index, counts=counts) for index, counts in enumerate(layers)),
    )


@pytest.mark.parametrize("n_expert", [1, 2, 4, 8, 60, 64, 128, 160, 256, 512])
@pytest.mark.parametrize("n_layer", [1, 2, 7, 48, 101])
def test_it_fits_80_columns_with_any_number_of_experts(n_expert: int, n_layer: int) -> None:
    text = usage(*(tuple(range(n_expert)) for _ in range(n_layer)))
    top = shades.top_ratio([text])
    coloured = heat_map.coloured(text, top=top).plain.splitlines()
    plain = heat_map.plain(text, top=top).splitlines()
    assert all(cell_len(line) <= 80 for line in [*coloured, *plain])
    assert len(plain) == n_layer + 1
    assert len(coloured) == -(-n_layer // 2) + 1


def test_plain_shades_rise_with_use_and_only_a_space_is_never_used() -> None:
    text = usage((0, 1, 4, 40))
    row = heat_map.plain(text, top=shades.top_ratio([text]), width=6).splitlines()[0]
    order = " .:-=+*#%@"
    shown = [order.index(character) for character in row[2:]]
    assert shown[0] == 0
    assert 0 < shown[1] < shown[2] < shown[3] == len(order) - 1


def test_plain_text_has_no_escape_sequences_and_is_ascii_up_to_the_last_line() -> None:
    picture = heat_map.plain(usage((1, 2), (3, 4)), top=2.0)
    assert "\x1b" not in picture
    assert all(line.isascii() for line in picture.splitlines()[:-1])


def test_a_coloured_cell_holds_two_layers() -> None:
    text = usage((0, 8), (8, 0), (8, 0))
    picture = heat_map.coloured(text, top=2.0)
    first, second = (picture.spans[index].style for index in (0, 1))
    black, bright = shades.colour(0), shades.colour(shades.brightness(2.0, 2.0))
    assert not isinstance(first, str)
    assert not isinstance(second, str)
    assert first.color is not None
    assert first.bgcolor is not None
    assert second.color is not None
    assert second.bgcolor is not None
    assert (first.color.triplet, first.bgcolor.triplet) == (black, bright)
    assert (second.color.triplet, second.bgcolor.triplet) == (bright, black)
    last = picture.spans[-1].style
    assert not isinstance(last, str)
    assert last.bgcolor is None


def test_many_experts_are_shown_as_the_mean_of_neighbours() -> None:
    counts = tuple([4, 0] * 64)
    picture = heat_map.plain(usage(counts), top=2.0).splitlines()
    assert len(set(picture[0][2:])) == 1
    assert "mean of 2 neighbours" in picture[-1]


def test_the_legends_name_the_same_ratios() -> None:
    coloured, plain = heat_map.coloured_legend(3.0).plain, heat_map.plain_legend(3.0)
    for said in ("never used", "0.25 × even", "even share", "3 × even"):
        assert said in coloured
        assert said in plain


@given(one=st.floats(0, 1000), other=st.floats(0, 1000), top=st.floats(shades.LEAST_TOP, 1000))
def test_brightness_never_falls_with_use(one: float, other: float, top: float) -> None:
    low, high = sorted((one, other))
    assert 0 <= shades.brightness(low, top) <= shades.brightness(high, top) <= 1


@given(value=st.floats(0, 1))
def test_every_brightness_has_a_colour(value: float) -> None:
    assert all(0 <= channel <= 255 for channel in shades.colour(value))


def test_an_unused_expert_is_darker_than_any_used_one() -> None:
    assert shades.brightness(0, 2.0) == 0
    assert shades.brightness(1e-9, 2.0) > 0.1


def test_one_scale_serves_all_texts() -> None:
    assert shades.top_ratio([usage((1, 1)), usage((0, 0, 0, 5))]) == 4.0
    assert shades.top_ratio([usage((1, 1))]) == shades.LEAST_TOP
    assert shades.top_ratio([]) == shades.LEAST_TOP

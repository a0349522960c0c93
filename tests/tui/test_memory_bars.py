from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from edgeapp.monitor.components import Part
from edgeapp.tui.memory_bars import (
    cut_line,
    expert_counts,
    expert_strip,
    legend,
    line_len,
    memory_bar,
    share_cells,
    sparkline,
    two_sided,
)

if TYPE_CHECKING:
    from edgeapp.monitor.status import ExpertPlace

_GIB = 1024**3


def text(line: tuple[tuple[str, str], ...]) -> str:
    return "".join(piece for piece, _ in line)


def test_a_bar_shows_each_part_by_its_size_and_its_own_character() -> None:
    parts = [
        Part(kind="weights", size_bytes=4 * _GIB),
        Part(kind="kv", size_bytes=2 * _GIB),
        Part(kind="free", size_bytes=2 * _GIB),
    ]

    assert text(memory_bar(parts, 16)) == "████████▓▓▓▓····"


@given(sizes=st.lists(st.integers(0, 2**40), max_size=12), width=st.integers(-2, 200))
def test_cells_are_shared_out_exactly_and_nothing_vanishes(sizes: list[int], width: int) -> None:
    cells = share_cells(sizes, width)

    assert len(cells) == len(sizes)
    assert sum(cells) == (max(width, 0) if any(sizes) else 0)
    if width >= len(sizes):
        assert all((n_cells > 0) == (size > 0) for n_cells, size in zip(cells, sizes, strict=True))


def test_a_legend_names_the_parts_in_gib() -> None:
    parts = [
        Part(kind="weights", size_bytes=4 * _GIB),
        Part(kind="other", label="firefox", size_bytes=_GIB // 2),
        Part(kind="compute", size_bytes=1),
        Part(kind="free", size_bytes=_GIB),
    ]

    assert text(legend(parts, 80)) == "█ weights 4.0  ▞ firefox 0.5  · free 1.0"
    assert text(legend(parts, 30)) == "█ weights 4.0  · free 1.0"
    assert text(legend(parts, 12)) == "· free 1.0"
    assert text(legend(parts, 5)) == ""


def test_a_sparkline_shows_the_newest_at_the_right() -> None:
    assert sparkline([0.0, 0.5, 1.0], 5) == "  ▁▅█"
    assert sparkline([0.0, 0.5, 1.0], 2) == "▅█"
    assert sparkline([-1.0, 7.0], 2) == "▁█"
    assert sparkline([0.5], 0) == ""


def test_the_strip_has_one_cell_for_each_layer() -> None:
    places: list[ExpertPlace] = ["gpu", "gpu", "partial", "ram", "ram"]

    assert text(expert_strip(places, 5)) == "██▒░░"
    assert expert_counts(places) == ("2 on the GPU, 1 partly, 2 in RAM", "█ 2 ▒ 1 ░ 2")


def test_with_more_layers_than_cells_a_mixed_cell_is_partly() -> None:
    places: list[ExpertPlace] = ["gpu", "gpu", "gpu", "ram", "ram", "ram", "ram", "ram"]

    assert text(expert_strip(places, 4)) == "█▒░░"


def test_the_right_side_gives_way_before_the_left_is_cut() -> None:
    left = (("a long name", "bold"),)

    assert (
        text(two_sided(left, ["all the figures", "figures"], 40))
        == "a long name" + " " * 14 + "all the figures"
    )
    assert text(two_sided(left, ["all the figures", "figures"], 22)) == "a long name    figures"
    assert text(two_sided(left, ["all the figures", "figures"], 16)) == "a long…  figures"


@given(
    left=st.text(st.characters(blacklist_categories=["Cc", "Cs", "Mn", "Cf"]), max_size=30),
    rights=st.lists(st.text("abc ", max_size=30), max_size=3),
    width=st.integers(1, 60),
)
def test_two_sides_fill_the_line_exactly(left: str, rights: list[str], width: int) -> None:
    assert line_len(two_sided(((left, ""),), rights, width)) == width


@given(pieces=st.lists(st.text("ab世界", max_size=8), max_size=5), width=st.integers(0, 30))
def test_a_cut_line_is_never_wider_than_its_place(pieces: list[str], width: int) -> None:
    assert line_len(cut_line(tuple((piece, "") for piece in pieces), width)) <= width

"""A picture of experts by layers for the terminal: coloured half blocks, or ASCII shades. Knows no model.

A column is an expert, or the mean of neighbours where there are more experts than columns. A coloured line
holds two layers, the upper one in the upper halves of its cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from rich.color import Color
from rich.style import Style
from rich.text import Text

from edgeapp.experts import shades

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.experts.usage import TextUsage

WIDTH_CELLS = 80
_MAX_CELL_WIDTH = 6
_UPPER_HALF, _FULL = "▀", "█"


@dataclass(frozen=True, kw_only=True)
class _Grid:
    """Brightness [n_layer, n_column] with each row's layer; a column is `cell_width` characters wide."""

    layers: tuple[int, ...]
    rows: tuple[tuple[float, ...], ...]
    cell_width: int
    experts_per_column: int


def coloured(text: TextUsage, *, top: float, width: int = WIDTH_CELLS) -> Text:
    """Return the heat map of `text`, two layers a line; `top` is the ratio that is drawn brightest."""
    grid = _grid(text, top=top, width=width)
    picture = Text(no_wrap=True)
    for start in range(0, len(grid.rows), 2):
        pair = grid.rows[start : start + 2]
        picture.append(_label(grid, start))
        for column, upper in enumerate(pair[0]):
            lower = pair[1][column] if len(pair) > 1 else None
            picture.append(_UPPER_HALF * grid.cell_width, _half_style(upper, lower))
        picture.append("\n")
    return picture.append(_footer(grid))


def plain(text: TextUsage, *, top: float, width: int = WIDTH_CELLS) -> str:
    """Return the heat map of `text` in ASCII shades, a layer a line."""
    grid = _grid(text, top=top, width=width)
    lines = [
        _label(grid, index) + "".join(shades.character(value) * grid.cell_width for value in row)
        for index, row in enumerate(grid.rows)
    ]
    return "\n".join([*(line.rstrip() for line in lines), _footer(grid)])


def coloured_legend(top: float) -> Text:
    """Return one line that says which colour means how much."""
    legend = Text(no_wrap=True)
    for ratio in _legend_ratios(top):
        legend.append(_FULL * 2, _style(shades.brightness(ratio, top))).append(f" {_described(ratio)}  ")
    return legend


def plain_legend(top: float) -> str:
    """Return one line that says which shade means how much."""
    said = (
        f"'{shades.character(shades.brightness(ratio, top))}' {_described(ratio)}"
        for ratio in _legend_ratios(top)
    )
    return "  ".join(said)


def _grid(text: TextUsage, *, top: float, width: int) -> _Grid:
    layers = tuple(usage.layer for usage in text.layers)
    room = max(1, width - _label_width(layers))
    n_expert = len(text.layers[0].counts) if text.layers else 0
    group = -(-n_expert // room)
    rows = tuple(
        tuple(shades.brightness(ratio, top) for ratio in _grouped(shades.ratios(usage.counts), group))
        for usage in text.layers
    )
    n_columns = len(rows[0]) if rows else 1
    return _Grid(
        layers=layers,
        rows=rows,
        cell_width=max(1, min(_MAX_CELL_WIDTH, room // max(1, n_columns))),
        experts_per_column=group,
    )


def _grouped(ratios: Sequence[float], group: int) -> list[float]:
    if group <= 1:
        return list(ratios)
    return [fmean(ratios[start : start + group]) for start in range(0, len(ratios), group)]


def _label_width(layers: Sequence[int]) -> int:
    return len(str(max(layers, default=0))) + 1


def _label(grid: _Grid, index: int) -> str:
    width = _label_width(grid.layers)
    return f"{grid.layers[index]:>{width - 1}} "


def _footer(grid: _Grid) -> str:
    """Say where the first and the last expert stand, and what a column is."""
    indent = " " * _label_width(grid.layers)
    if grid.experts_per_column > 1:
        return f"{indent}layers × experts, each column the mean of {grid.experts_per_column} neighbours"
    return f"{indent}layers × experts"


def _legend_ratios(top: float) -> list[float]:
    return [0.0, *(ratio for ratio in (0.25, 1.0) if ratio < top), top]


def _described(ratio: float) -> str:
    match ratio:
        case 0.0:
            return "never used"
        case 1.0:
            return "even share"
        case _:
            return f"{ratio:.2g} × even"


def _style(value: float) -> Style:
    return Style(color=Color.from_rgb(*shades.colour(value)))


def _half_style(upper: float, lower: float | None) -> Style:
    background = None if lower is None else Color.from_rgb(*shades.colour(lower))
    return Style(color=Color.from_rgb(*shades.colour(upper)), bgcolor=background)

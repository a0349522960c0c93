"""A picture of experts by layers as one self-contained SVG: a panel for each text, one legend. Pure.

Readable without colours too: every cell says in its tooltip what it stands for.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from edgeapp.cleantext import clean_line
from edgeapp.experts import shades

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgeapp.experts.shades import Colour
    from edgeapp.experts.usage import TextUsage, UsageProfile
    from edgeapp.protocol import LayerUsage

_MARGIN = 56
_CELL_HEIGHT = 14
_MAX_CELL_WIDTH = 28
_PANEL_WIDTH = 896
_HEADER_HEIGHT, _PANEL_HEAD, _PANEL_FOOT, _LEGEND_HEIGHT = 48, 24, 32, 64
_LEGEND_STEPS = 32
_STYLE = "font-family:system-ui,sans-serif;font-size:12px;fill:#222"


def svg(profile: UsageProfile) -> str:
    """Return the document. All texts share one scale, so their panels can be compared."""
    top = shades.top_ratio(profile.texts)
    cell_width = max(2, min(_MAX_CELL_WIDTH, _PANEL_WIDTH // max(1, profile.n_expert)))
    width = 2 * _MARGIN + max(cell_width * profile.n_expert, 320)
    heights = [_panel_height(text) for text in profile.texts]
    height = _HEADER_HEIGHT + sum(heights) + _LEGEND_HEIGHT
    model = escape(clean_line(profile.model, max_chars=120))
    lines = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" aria-labelledby="title desc" style="{_STYLE}">'
        ),
        f'<title id="title">Expert usage of {model}</title>',
        f'<desc id="desc">{escape(_description(profile))}</desc>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="{_MARGIN}" y="28" style="font-size:16px">Expert usage of {model}</text>',
    ]
    y = _HEADER_HEIGHT
    for text, panel_height in zip(profile.texts, heights, strict=True):
        lines += _panel(text, y=y, cell_width=cell_width, top=top)
        y += panel_height
    return "\n".join([*lines, *_legend(y, top=top), "</svg>"]) + "\n"


def _description(profile: UsageProfile) -> str:
    names = ", ".join(clean_line(text.name, max_chars=80) for text in profile.texts)
    return (
        f"Each token uses {profile.n_expert_used} of {profile.n_expert} experts. One panel for each text "
        f"({names}): rows are layers, columns experts, brighter means used more often."
    )


def _panel_height(text: TextUsage) -> int:
    return _PANEL_HEAD + len(text.layers) * _CELL_HEIGHT + _PANEL_FOOT


def _panel(text: TextUsage, *, y: int, cell_width: int, top: float) -> Iterator[str]:
    name = escape(clean_line(text.name, max_chars=80))
    yield f'<text x="{_MARGIN}" y="{y + 14}">{name}, {text.n_tokens:,} tokens</text>'
    cells_y = y + _PANEL_HEAD
    for row, usage in enumerate(text.layers):
        yield from _row(usage, y=cells_y + row * _CELL_HEIGHT, cell_width=cell_width, top=top)
    n_expert = len(text.layers[0].counts) if text.layers else 0
    yield from _expert_labels(
        n_expert, y=cells_y + len(text.layers) * _CELL_HEIGHT + 14, cell_width=cell_width
    )


def _row(usage: LayerUsage, *, y: int, cell_width: int, top: float) -> Iterator[str]:
    yield (
        f'<text x="{_MARGIN - 6}" y="{y + _CELL_HEIGHT - 3}" text-anchor="end" '
        f'style="font-size:10px">{usage.layer}</text>'
    )
    for expert, ratio in enumerate(shades.ratios(usage.counts)):
        fill = _hex(shades.colour(shades.brightness(ratio, top)))
        yield (
            f'<rect x="{_MARGIN + expert * cell_width}" y="{y}" width="{cell_width}" height="{_CELL_HEIGHT}" '
            f'fill="{fill}"><title>layer {usage.layer}, expert {expert}: {ratio:.2f} × even</title></rect>'
        )


def _expert_labels(n_expert: int, *, y: int, cell_width: int) -> Iterator[str]:
    for expert in _labelled(n_expert, cell_width=cell_width):
        x = _MARGIN + expert * cell_width + cell_width // 2
        yield f'<text x="{x}" y="{y}" text-anchor="middle" style="font-size:10px">{expert}</text>'


def _labelled(n_expert: int, *, cell_width: int) -> Sequence[int]:
    """Return the experts whose numbers find room below their columns."""
    step = next(step for step in (1, 2, 4, 8, 16, 32, 64, 128) if step * cell_width >= 24 or step == 128)  # noqa: PLR2004 - pixels
    return range(0, n_expert, step)


def _legend(y: int, *, top: float) -> Iterator[str]:
    """A strip from never used to the brightest, logarithmic as the brightness is, with the even share."""
    width = 8
    for step in range(_LEGEND_STEPS):
        ratio = math.expm1(step / (_LEGEND_STEPS - 1) * math.log1p(top))
        fill = _hex(shades.colour(shades.brightness(ratio, top)))
        yield f'<rect x="{_MARGIN + step * width}" y="{y + 8}" width="{width}" height="12" fill="{fill}"/>'
    for ratio, label in ((0.0, "never"), (1.0, "even share"), (top, f"{top:.1f} × even")):
        place = math.log1p(ratio) / math.log1p(top)
        x = _MARGIN + round(place * (_LEGEND_STEPS - 1) * width + width / 2)
        yield f'<text x="{x}" y="{y + 34}" text-anchor="middle" style="font-size:10px">{label}</text>'


def _hex(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)

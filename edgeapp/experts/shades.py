"""From how much an expert is used to how bright it is drawn. Pure.

Brightness is logarithmic in the share over an even share, so that an expert used a tenth of the time and
one used ten times as much can be told apart in one picture. 0 is an expert that was never used.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgeapp.experts.balance import shares

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from edgeapp.experts.usage import TextUsage

Colour = tuple[int, int, int]

LEAST_TOP = 2.0
"""The brightest colour stands for at least twice the even share, so that an even model looks even."""
_FLOOR = 0.12
"""Brightness of an expert that is used hardly at all: it differs from one that is never used."""
_VIRIDIS: tuple[
    Colour, ...
] = (  # matplotlib's viridis at every eighth: even to the eye, and to the colour-blind
    *((68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141)),
    *((39, 173, 129), (92, 200, 99), (170, 220, 50), (253, 231, 37)),
)
_UNUSED: Colour = (24, 24, 24)
_ASCII = " .:-=+*#%@"


def ratios(counts: Sequence[int]) -> list[float]:
    """Return each expert's share over the even share 1 / n_expert."""
    return [share * len(counts) for share in shares(counts)]


def top_ratio(texts: Iterable[TextUsage]) -> float:
    """Return the ratio that is drawn brightest, the same for all `texts` so that they can be compared."""
    most = (max(ratios(layer.counts), default=0.0) for text in texts for layer in text.layers)
    return max(LEAST_TOP, *most, 0.0)


def brightness(ratio: float, top: float) -> float:
    """Return 0 for a ratio of 0, and from `_FLOOR` to 1 for what is above."""
    if ratio <= 0:
        return 0.0
    return _FLOOR + (1 - _FLOOR) * min(1.0, math.log1p(ratio) / math.log1p(top))


def colour(value: float) -> Colour:
    """Return viridis at brightness `value`; an unused expert is nearly black."""
    if value <= 0:
        return _UNUSED
    position = min(value, 1.0) * (len(_VIRIDIS) - 1)
    index = min(int(position), len(_VIRIDIS) - 2)
    low, high = _VIRIDIS[index], _VIRIDIS[index + 1]
    red, green, blue = (round(a + (b - a) * (position - index)) for a, b in zip(low, high, strict=True))
    return red, green, blue


def character(value: float) -> str:
    """Return an ASCII shade for brightness `value`; only an unused expert is a space."""
    if value <= 0:
        return _ASCII[0]
    return _ASCII[min(len(_ASCII) - 1, 1 + int(value * (len(_ASCII) - 1)))]

"""What counts of experts say: how evenly they are used, and how differently by two texts. Pure arithmetic.

A layer's counts divided by their sum are read as a distribution over its experts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.experts.usage import TextUsage
    from edgeapp.protocol import LayerUsage


@dataclass(frozen=True, kw_only=True)
class LayerBalance:
    """How evenly a layer uses its experts.

    `evenness` is the distribution's entropy over that of an even one: 1 is even, 0 is one expert alone.
    """

    layer: int
    evenness: float
    busiest_expert: int
    busiest_share: float
    n_unused: int


@dataclass(frozen=True, kw_only=True)
class LayerDifference:
    """How far apart two texts are in one layer.

    `overlap` is the share of choices that both have in common, Σ min(p, q); `cosine` that of the counts'
    angle; `divergence` the Jensen-Shannon divergence in bits (Lin 1991): 0 is the same, 1 nothing in common.
    `by_chance` is the divergence that two samples of this size from one distribution would show, were all
    tokens independent: (K - 1) / (8 ln 2) * (1/n + 1/m), the first term of its expansion.
    """

    layer: int
    overlap: float
    cosine: float
    divergence: float
    by_chance: float


@dataclass(frozen=True, kw_only=True)
class TextDifference:
    """Two texts, layer by layer, with the means over the layers."""

    one: str
    other: str
    layers: tuple[LayerDifference, ...]

    @property
    def overlap(self) -> float:
        return fmean(layer.overlap for layer in self.layers)

    @property
    def cosine(self) -> float:
        return fmean(layer.cosine for layer in self.layers)

    @property
    def divergence(self) -> float:
        return fmean(layer.divergence for layer in self.layers)

    @property
    def by_chance(self) -> float:
        return fmean(layer.by_chance for layer in self.layers)

    @property
    def farthest(self) -> LayerDifference:
        return max(self.layers, key=lambda layer: layer.divergence)


def shares(counts: Sequence[int]) -> list[float]:
    """Return each expert's share of the choices; all 0 where there were none."""
    total = sum(counts)
    return [count / total if total else 0.0 for count in counts]


def layer_balance(usage: LayerUsage) -> LayerBalance:
    """`usage` has at least one expert."""
    share = shares(usage.counts)
    busiest = max(range(len(share)), key=share.__getitem__)
    return LayerBalance(
        layer=usage.layer,
        evenness=_entropy(share) / math.log2(len(share)) if len(share) > 1 else 1.0,
        busiest_expert=busiest,
        busiest_share=share[busiest],
        n_unused=sum(not count for count in usage.counts),
    )


def text_difference(one: TextUsage, other: TextUsage) -> TextDifference:
    """Compare two texts of one profile."""
    pairs = zip(one.layers, other.layers, strict=True)
    layers = tuple(_layer_difference(first, second) for first, second in pairs)
    return TextDifference(one=one.name, other=other.name, layers=layers)


def _layer_difference(one: LayerUsage, other: LayerUsage) -> LayerDifference:
    p, q = shares(one.counts), shares(other.counts)
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return LayerDifference(
        layer=one.layer,
        overlap=sum(map(min, p, q)),
        cosine=_cosine(p, q),
        # Rounding can bring a difference that should be 0 below it.
        divergence=max(0.0, _entropy(middle) - (_entropy(p) + _entropy(q)) / 2),
        by_chance=_by_chance(one.counts, other.counts),
    )


def _entropy(share: Sequence[float]) -> float:
    return -sum(p * math.log2(p) for p in share if p)


def _cosine(p: Sequence[float], q: Sequence[float]) -> float:
    norm = math.hypot(*p) * math.hypot(*q)
    return sum(a * b for a, b in zip(p, q, strict=True)) / norm if norm else 0.0


def _by_chance(one: Sequence[int], other: Sequence[int]) -> float:
    n, m = sum(one), sum(other)
    n_seen = sum(bool(a or b) for a, b in zip(one, other, strict=True))
    return (n_seen - 1) / (8 * math.log(2)) * (1 / n + 1 / m) if n and m else 0.0

"""How much memory llama.cpp's compute buffers take: measured points and what lies between them. Pure.

A graph's buffers hold activations (∝ micro-batch), the attention mask (∝ micro-batch × context) and a part
that depends on neither. So between points the need is linear in both; beyond them it grows in proportion,
which is at least the truth. It never falls when an argument grows.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgeapp.placement.shape import ModelShape

_MIB = 1 << 20
_ASSUMED_FIXED_BYTES = 64 * _MIB
_ASSUMED_OUTPUTS = 32
"""More than the engine asks logits for in one micro-batch (engine/model.py, `_n_outputs`, one answer)."""
_ASSUMED_UBATCHES = (128, 8192)
_ASSUMED_CTXS = (256, 1 << 20)


@dataclass(frozen=True, kw_only=True)
class ComputePoint:
    """What one probe found, in bytes."""

    n_ctx: int
    n_ubatch: int
    experts_on_cpu: bool
    device_bytes: int
    host_bytes: int


_Column = tuple[tuple[int, ...], tuple[int, ...]]
"""Arguments in ascending order and the bytes at each."""


@dataclass(frozen=True, kw_only=True)
class _Surface:
    """Bytes over (context, micro-batch): for each probed context a column over micro-batches."""

    n_ctxs: tuple[int, ...]
    columns: tuple[_Column, ...]

    def at(self, *, n_ctx: int, n_ubatch: int) -> int:
        heights = tuple(accumulate((_on_line(column, n_ubatch) for column in self.columns), max))
        return _on_line((self.n_ctxs, heights), n_ctx)


@dataclass(frozen=True, kw_only=True)
class ComputeNeed:
    """Compute buffers of one model on one device, by shape of the context."""

    device: dict[bool, _Surface]
    """By whether experts are in host memory."""
    host: dict[bool, _Surface]
    is_probed: bool

    @classmethod
    def from_probes(cls, points: Sequence[ComputePoint]) -> ComputeNeed:
        """Return what lies between `points`, at least one. A kind that was not probed needs the other's."""
        kinds = {kind: [point for point in points if point.experts_on_cpu is kind] for kind in (False, True)}
        measured = {kind: kinds[kind] or kinds[not kind] for kind in kinds}
        return cls(
            device={kind: _surface(of, lambda point: point.device_bytes) for kind, of in measured.items()},
            host={kind: _surface(of, lambda point: point.host_bytes) for kind, of in measured.items()},
            is_probed=True,
        )

    @classmethod
    def assumed(cls, shape: ModelShape) -> ComputeNeed:
        """Return a cautious need from the hyper-parameters, for where nothing can be probed."""
        points = [
            _assumed_point(shape, n_ctx=n_ctx, n_ubatch=n_ubatch, experts_on_cpu=kind)
            for kind in (False, True)
            for n_ctx in _ASSUMED_CTXS
            for n_ubatch in _ASSUMED_UBATCHES
        ]
        need = cls.from_probes(points)
        return cls(device=need.device, host=need.host, is_probed=False)

    def device_bytes(self, *, n_ctx: int, n_ubatch: int, experts_on_cpu: bool) -> int:
        return self.device[experts_on_cpu].at(n_ctx=n_ctx, n_ubatch=n_ubatch)

    def host_bytes(self, *, n_ctx: int, n_ubatch: int, experts_on_cpu: bool) -> int:
        return self.host[experts_on_cpu].at(n_ctx=n_ctx, n_ubatch=n_ubatch)


def _surface(points: Sequence[ComputePoint], height: Callable[[ComputePoint], int]) -> _Surface:
    columns = {
        n_ctx: _column([(point.n_ubatch, height(point)) for point in group])
        for n_ctx, group in groupby(sorted(points, key=_n_ctx), _n_ctx)
    }
    return _Surface(n_ctxs=tuple(columns), columns=tuple(columns.values()))


def _n_ctx(point: ComputePoint) -> int:
    return point.n_ctx


def _column(points: list[tuple[int, int]]) -> _Column:
    """Sort points of (micro-batch, bytes); of several at the same place the highest counts."""
    highest = dict(sorted(points))
    return tuple(highest), tuple(accumulate(highest.values(), max))


def _on_line(column: _Column, at: int) -> int:
    """Return the height at `at`: constant before the first point, in proportion after the last."""
    places, heights = column
    after = bisect_right(places, at)
    if after == 0:
        return heights[0]
    if after == len(places):
        return -(-heights[-1] * at // places[-1])
    return _between(places[after - 1 : after + 1], heights[after - 1 : after + 1], at)


def _between(places: tuple[int, ...], heights: tuple[int, ...], at: int) -> int:
    (left, right), (low, high) = places, heights
    return low - (low - high) * (at - left) // (right - left)


def _assumed_point(shape: ModelShape, *, n_ctx: int, n_ubatch: int, experts_on_cpu: bool) -> ComputePoint:
    """Activations of a layer in F32, an attention mask in F32 and F16, logits, and copies of host experts.

    Against probes of models from 135M to 30B at 512 to 4096 tokens this is 1.2 to 3 times the truth.
    """
    experts = shape.n_expert_used * (shape.n_embd + 3 * shape.n_ff_expert)
    mask_bytes = 6 * n_ubatch * n_ctx
    activations = 20 * shape.n_embd + 3 * shape.attention_width + experts
    logits_bytes = 4 * shape.n_vocab * _ASSUMED_OUTPUTS
    copies_bytes = 2 * shape.largest_expert_tensor_bytes if experts_on_cpu else 0
    return ComputePoint(
        n_ctx=n_ctx,
        n_ubatch=n_ubatch,
        experts_on_cpu=experts_on_cpu,
        device_bytes=_ASSUMED_FIXED_BYTES
        + 4 * n_ubatch * activations
        + mask_bytes
        + logits_bytes
        + copies_bytes,
        host_bytes=_ASSUMED_FIXED_BYTES // 4 + 4 * n_ubatch * (4 * shape.n_embd + experts) + mask_bytes,
    )

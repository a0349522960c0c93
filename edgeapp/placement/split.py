"""The ways to divide a model between GPU and host memory, from most on the GPU to nothing. Pure.

Experts leave first, those of the last layers before the others: everything that a token needs in any case is
read from the faster memory, and prefill is about a tenth faster than with the first layers' experts in RAM
(ikawrakow/ik_llama.cpp#2262). A layer leaves in parts: its smaller expert matrices, its larger, both. Whole
layers leave last, the first ones first, because llama.cpp counts GPU layers from the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeapp.placement.shape import LayerShape, ModelShape

ExpertPart = Literal["gate_up", "down"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """What lies on one side. `parameters` are those that work on one token."""

    dense_bytes: int = 0
    expert_bytes: int = 0
    parameters: float = 0.0
    attention_width: int = 0
    """Query values of all its layers with attention."""

    def __add__(self, other: Side) -> Side:
        return Side(
            dense_bytes=self.dense_bytes + other.dense_bytes,
            expert_bytes=self.expert_bytes + other.expert_bytes,
            parameters=self.parameters + other.parameters,
            attention_width=self.attention_width + other.attention_width,
        )

    def __sub__(self, other: Side) -> Side:
        return Side(
            dense_bytes=self.dense_bytes - other.dense_bytes,
            expert_bytes=self.expert_bytes - other.expert_bytes,
            parameters=self.parameters - other.parameters,
            attention_width=self.attention_width - other.attention_width,
        )

    @property
    def weight_bytes(self) -> int:
        return self.dense_bytes + self.expert_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """One division. The token embedding is not in it: it stays in host memory."""

    device: Side
    host: Side
    cpu_layers: int = 0
    """So many of the first layers are in host memory whole, with their KV."""
    cpu_expert_layers: tuple[int, ...] = ()
    """Layers with experts in host memory, those in part there included, ascending."""
    partial: tuple[int, ExpertPart] | None = None
    """The one layer of them that has only this part there."""
    uses_device: bool = True
    n_stops: int = field(init=False)
    """How often a token leaves the GPU and comes back."""

    def __post_init__(self) -> None:
        in_gpu_layers = sum(layer >= self.cpu_layers for layer in self.cpu_expert_layers)
        n_stops = (in_gpu_layers + (self.cpu_layers > 0)) * self.uses_device
        object.__setattr__(self, "n_stops", n_stops)


def splits(shape: ModelShape, pinned: frozenset[int] | None) -> Iterator[Split]:
    """Yield the divisions that use the GPU; `pinned`, if given, says whose experts leave, no others do."""
    start = Split(device=_everything(shape), host=Side())
    if pinned is None:
        yield start
        for split in _experts_leave(shape, start):
            yield split
            start = split
    else:
        for layer in sorted(pinned, reverse=True):
            start = _experts_left(shape, start, layer)
        yield start
    yield from _layers_leave(shape, start, pinned)


def host_only(shape: ModelShape) -> Split:
    """Return the division without a GPU."""
    return Split(
        device=Side(), host=_everything(shape), cpu_expert_layers=shape.expert_layers, uses_device=False
    )


def _experts_leave(shape: ModelShape, start: Split) -> Iterator[Split]:
    for layer in reversed(shape.expert_layers):
        for part in _parts(shape.layers[layer]):
            piece = _expert_piece(shape, layer, part)
            yield replace(
                start,
                device=start.device - piece,
                host=start.host + piece,
                cpu_expert_layers=(layer, *start.cpu_expert_layers),
                partial=(layer, part),
            )
        start = _experts_left(shape, start, layer)
        yield start


def _parts(layer: LayerShape) -> tuple[ExpertPart, ...]:
    """The smaller part first; none where the layer has only one."""
    if not layer.down_bytes or not layer.gate_up_bytes:
        return ()
    return ("down", "gate_up") if layer.down_bytes <= layer.gate_up_bytes else ("gate_up", "down")


def _experts_left(shape: ModelShape, start: Split, layer: int) -> Split:
    piece = _expert_piece(shape, layer, "gate_up") + _expert_piece(shape, layer, "down")
    return replace(
        start,
        device=start.device - piece,
        host=start.host + piece,
        cpu_expert_layers=tuple(sorted((layer, *start.cpu_expert_layers))),
    )


def _layers_leave(shape: ModelShape, start: Split, pinned: frozenset[int] | None) -> Iterator[Split]:
    for number, layer in enumerate(shape.layers):
        if layer.expert_bytes and pinned is not None and number not in pinned:
            return  # it would take experts along that are to stay
        piece = _dense_piece(shape, layer)
        start = replace(
            start,
            device=start.device - piece,
            host=start.host + piece,
            cpu_layers=number + 1,
        )
        yield start


def _everything(shape: ModelShape) -> Side:
    total = Side(dense_bytes=shape.output_bytes, parameters=shape.output_parameters)
    for number, layer in enumerate(shape.layers):
        total += _dense_piece(shape, layer)
        total += _expert_piece(shape, number, "gate_up") + _expert_piece(shape, number, "down")
    return total


def _dense_piece(shape: ModelShape, layer: LayerShape) -> Side:
    return Side(
        dense_bytes=layer.dense_bytes,
        parameters=layer.dense_parameters,
        attention_width=shape.attention_width if layer.cache.k_values else 0,
    )


def _expert_piece(shape: ModelShape, number: int, part: ExpertPart) -> Side:
    layer = shape.layers[number]
    n_bytes = layer.down_bytes if part == "down" else layer.gate_up_bytes
    if not n_bytes:
        return Side()
    active = layer.expert_parameters * shape.expert_share
    return Side(expert_bytes=n_bytes, parameters=active * n_bytes / layer.expert_bytes)

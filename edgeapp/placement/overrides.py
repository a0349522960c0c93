"""Patterns that tell llama.cpp which tensors go where. Pure text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeapp.placement.split import ExpertPart, Split

HOST_BUFFER = "CPU"
_ANY_EXPERTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"  # llama.cpp common/common.h, LLM_FFN_EXPS_REGEX
_PARTS: dict[ExpertPart, str] = {"gate_up": "(up|gate|gate_up)", "down": "down"}


@dataclass(frozen=True, kw_only=True)
class TensorOverride:
    """Tensors in whose name `pattern` (std::regex) is found go to `buffer`: "CPU" or a device's name."""

    pattern: str
    buffer: str


def expert_overrides(layers: tuple[int, ...], *, of: tuple[int, ...] = ()) -> tuple[TensorOverride, ...]:
    """Return what puts the routed experts of `layers` into host memory; `of` are all that could be."""
    if not layers:
        return ()
    chosen = "" if layers == (of or layers) else rf"blk\.({'|'.join(map(str, layers))})"
    return (TensorOverride(pattern=chosen + _ANY_EXPERTS, buffer=HOST_BUFFER),)


def tensor_overrides(split: Split, expert_layers: tuple[int, ...]) -> tuple[TensorOverride, ...]:
    """Return what puts the experts of `split` into host memory; whole layers there need no pattern."""
    if not split.uses_device:
        return ()
    partial_layer = split.partial[0] if split.partial else None
    on_gpu = tuple(layer for layer in expert_layers if layer >= split.cpu_layers)
    whole = tuple(
        layer for layer in split.cpu_expert_layers if layer >= split.cpu_layers and layer != partial_layer
    )
    found = expert_overrides(whole, of=on_gpu)
    if split.partial is None:
        return found
    layer, part = split.partial
    pattern = rf"blk\.{layer}\.ffn_{_PARTS[part]}_(ch|)exps"
    return (*found, TensorOverride(pattern=pattern, buffer=HOST_BUFFER))

"""Where a plan puts the routed experts of each layer, as a picture shows it. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from edgeapp.placement.overrides import HOST_BUFFER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.monitor.status import ExpertPlace
    from edgeapp.placement.plan import PlacementPlan

_PARTS = ("gate_up", "down")
"""What a plan splits a layer's experts into."""


def placed_experts(plan: PlacementPlan, expert_layers: Sequence[int]) -> tuple[ExpertPlace, ...]:
    """Return one place for each of `expert_layers`, the numbers of the layers that have routed experts."""
    return tuple(_place(plan, layer) for layer in expert_layers)


def _place(plan: PlacementPlan, layer: int) -> ExpertPlace:
    if not plan.device or layer in plan.cpu_layers:
        return "ram"
    if layer not in plan.cpu_expert_layers:
        return "gpu"
    in_ram = [_is_in_ram(plan, f"blk.{layer}.ffn_{part}_exps.weight") for part in _PARTS]
    return "ram" if all(in_ram) else "partial"


def _is_in_ram(plan: PlacementPlan, tensor: str) -> bool:
    return any(
        re.search(override.pattern, tensor)
        for override in plan.tensor_overrides
        if override.buffer == HOST_BUFFER
    )

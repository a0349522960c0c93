"""From a placement plan to the request that carries it out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.protocol import Load

if TYPE_CHECKING:
    from pathlib import Path

    from edgeapp.placement.plan import PlacementPlan


def load_request(plan: PlacementPlan, path: Path) -> Load:
    """Return the request to load the model at `path` as planned; the client gives it its id."""
    return Load(
        id=0,
        path=str(path),
        n_ctx=plan.n_ctx,
        n_threads=plan.n_threads,
        n_gpu_layers=plan.n_gpu_layers,
        cpu_experts=plan.cpu_experts,
        use_mmap=plan.use_mmap,
    )

"""Every shape on every card with every context: how the app itself would plan them.

The device is the loopback one, which llama.cpp takes for a GPU; its speeds are those of a middling card, and
host memory is plenty, so that only VRAM is short. Compute buffers are probed as the app probes them.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from edgeapp.gguf_info import read_gguf_info
from edgeapp.placement.compute_need import ComputeNeed, ComputePoint
from edgeapp.placement.machine import DeviceFacts, HostFacts, Machine
from edgeapp.placement.plan import PlacementPlan, plan
from edgeapp.placement.shape import ModelShape, model_shape
from edgeapp.placement.wishes import WORKLOADS, Wishes
from edgeapp.runtime import compute_probe
from edgeapp.runtime.probing import probe
from tests.model_shapes import SHAPES
from tests.native.memory_breakdown import Placement, Use, breakdowns
from tests.placement.recorded_fit import CONTEXTS, MARGIN_MIB, VRAM_GIB, Case

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from edgeapp.protocol import BufferUse, ProbeShape

DEVICE = "RPC0"
_GIB = 1024**3
_RESERVE_BYTES = MARGIN_MIB * 1024**2
_N_PROCESSES = 2
_SPARE_SEQUENCES, _DRAFT_ROWS = 4, 15  # edgeapp.engine.model, which starts llama.cpp when it is imported
_HOST = HostFacts(
    total_ram_bytes=512 * _GIB,
    available_ram_bytes=500 * _GIB,
    n_threads=8,
    ram_read_bps=40e9,
    compute_flops=0.4e12,
)

Needs = dict[tuple[str, int], ComputeNeed]
"""By shape and context."""


def cases(name: str) -> list[Case]:
    """Return what is planned for a shape, without contexts beyond the trained one, which are refused."""
    trained = SHAPES[name].n_ctx
    return [Case(name, vram_gib, n_ctx) for vram_gib in VRAM_GIB for n_ctx in CONTEXTS if n_ctx <= trained]


def machine(vram_gib: int) -> Machine:
    device = DeviceFacts(
        name=DEVICE,
        description="a middling card",
        total_bytes=vram_gib * _GIB,
        free_bytes=vram_gib * _GIB,
        read_bps=400e9,
        compute_flops=20e12,
        pinned_bps=20e9,
        pageable_bps=10e9,
        sync_s=60e-6,
        can_offload=True,
    )
    return Machine(host=_HOST, device=device, is_measured=True)


def wishes(n_ctx: int, workload: str = "chat") -> Wishes:
    """The same budget as `--fit` has."""
    return Wishes(n_ctx=n_ctx, reserve_bytes=_RESERVE_BYTES, workload=WORKLOADS[workload])


def planned(case: Case, shape: ModelShape, need: ComputeNeed, workload: str = "chat") -> PlacementPlan:
    return plan(shape, machine(case.vram_gib), need, wishes(case.n_ctx, workload))


def read_shapes(files: Mapping[str, Path]) -> dict[str, ModelShape]:
    return {name: model_shape(read_gguf_info(path)) for name, path in files.items()}


# What llama.cpp says ---------------------------------------------------------------------------------------


def probe_needs(files: Mapping[str, Path], shapes: Mapping[str, ModelShape]) -> Needs:
    """Probe every shape at every context, in a worker for each. `EDGEAPP_RPC_SERVERS` names the device."""

    async def all_of_them() -> Needs:
        gate = asyncio.Semaphore(_N_PROCESSES)

        async def one(name: str) -> Needs:
            async with gate:
                return await _needs_of(name, files[name], shapes[name])

        found: Needs = {}
        for needs in await asyncio.gather(*(one(name) for name in files)):
            found |= needs
        return found

    return asyncio.run(all_of_them())


async def _needs_of(name: str, path: Path, shape: ModelShape) -> Needs:
    n_ctxs = [n_ctx for n_ctx in CONTEXTS if n_ctx <= shape.n_ctx_train]
    asked = [compute_probe.probe_shapes(shape, DEVICE, wishes(n_ctx)) for n_ctx in n_ctxs]
    _, found = await probe(path, [one for shapes in asked for one in shapes], n_threads=1)
    answers = iter(found)
    return {
        (name, n_ctx): ComputeNeed.from_probes([_point(one, next(answers)) for one in shapes])
        for n_ctx, shapes in zip(n_ctxs, asked, strict=True)
    }


def _point(wanted: ProbeShape, found: Sequence[BufferUse]) -> ComputePoint:
    by_device = {use.device: use.compute_bytes for use in found}
    return ComputePoint(
        n_ctx=wanted.n_ctx,
        n_ubatch=wanted.n_ubatch,
        experts_on_cpu=bool(wanted.tensor_overrides),
        device_bytes=by_device[DEVICE],
        host_bytes=by_device["CPU"],
    )


def checked(shim: Path, endpoint: str, placements: Sequence[Placement]) -> list[dict[str, Use] | None]:
    """Let llama.cpp say what each placement takes; neighbours share a process."""
    size = -(-len(placements) // _N_PROCESSES)
    chunks = [placements[start : start + size] for start in range(0, len(placements), size)]
    with ThreadPoolExecutor(_N_PROCESSES) as pool:
        answers = pool.map(lambda chunk: breakdowns(shim, chunk, endpoint=endpoint), chunks)
        return [answer for chunk in answers for answer in chunk]


def as_placement(path: Path, shape: ModelShape, made: PlacementPlan) -> Placement:
    """Return what the engine would pass to llama.cpp for a plan."""
    return Placement(
        path=str(path),
        n_ctx=made.n_ctx,
        n_ubatch=made.n_ubatch,
        n_sequences=made.n_parallel + (0 if shape.is_recurrent else _SPARE_SEQUENCES),
        n_outputs=made.n_parallel + _DRAFT_ROWS,
        kv_type=made.kv_type,
        n_gpu_layers=made.n_gpu_layers,
        overrides=tuple((override.pattern, override.buffer) for override in made.tensor_overrides),
    )

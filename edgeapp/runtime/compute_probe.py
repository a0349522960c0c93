"""Let llama.cpp itself say how large the compute buffers of a model would be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.placement.compute_need import ComputeNeed, ComputePoint
from edgeapp.placement.plan import CTX_STEP, UBATCHES, context_of, expert_overrides
from edgeapp.protocol import ProbeShape, TensorOverride

if TYPE_CHECKING:
    from edgeapp.gguf_info import GgufInfo
    from edgeapp.placement.machine import Machine
    from edgeapp.placement.shape import ModelShape
    from edgeapp.placement.wishes import Wishes
    from edgeapp.runtime.probing import Questions


async def compute_need(
    asked: Questions | None, info: GgufInfo, shape: ModelShape, machine: Machine, wishes: Wishes
) -> ComputeNeed:
    """Let llama.cpp itself say how large its compute buffers are; assume them where there is no GPU."""
    if asked is None or machine.device is None:
        return ComputeNeed.assumed(shape)
    shapes = probe_shapes(shape, machine.device.name, wishes)
    found = await asked.probe(info.path, shapes, n_threads=machine.host.n_threads)
    points = []
    for wanted, buffers in zip(shapes, found, strict=True):
        by_device = {use.device: use.compute_bytes for use in buffers}
        if not by_device:
            continue
        points.append(
            ComputePoint(
                n_ctx=wanted.n_ctx,
                n_ubatch=wanted.n_ubatch,
                experts_on_cpu=bool(wanted.tensor_overrides),
                device_bytes=by_device.get(machine.device.name, 0),
                host_bytes=by_device.get("CPU", 0),
            )
        )
    return ComputeNeed.from_probes(points) if points else ComputeNeed.assumed(shape)


def probe_shapes(shape: ModelShape, device: str, wishes: Wishes) -> tuple[ProbeShape, ...]:
    n_ctx = context_of(shape, wishes.n_ctx)
    contexts = sorted({min(4096, n_ctx), n_ctx})
    ubatches = [wishes.n_ubatch] if wishes.n_ubatch else [UBATCHES[0], min(UBATCHES[-1], n_ctx)]
    on_cpu = tuple(
        TensorOverride(pattern=wanted.pattern, buffer=wanted.buffer)
        for wanted in expert_overrides(shape.expert_layers)
    )
    placements = [(), on_cpu] if on_cpu else [()]
    return tuple(
        ProbeShape(
            n_ctx=context,
            n_ubatch=min(n_ubatch, -(-context // CTX_STEP) * CTX_STEP),
            n_parallel=wishes.n_parallel,
            kv_type=wishes.kv_type or "f16",
            device=device,
            n_gpu_layers=999,
            tensor_overrides=overrides,
        )
        for overrides in placements
        for context in contexts
        for n_ubatch in ubatches
    )

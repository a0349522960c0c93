"""Made-up views of memory for the tests beside this file."""

from __future__ import annotations

from edgeapp.monitor.overview import Overview
from edgeapp.monitor.status import EngineStatus, ExpertPlace
from edgeapp.protocol import BufferUse
from edgeapp.tui.memory_view import MemoryView
from tests.monitor.memory_samples import GIB, a_gpu, a_sample

PLAN = "36 of 48 expert layers in RAM; 11.2 of 12.0 GiB VRAM; context 32k kept; about 38 tok/s"


def places(n_layers: int) -> tuple[ExpertPlace, ...]:
    """Return eleven layers on the GPU, one on both sides, the others in RAM."""
    all_places: list[ExpertPlace] = ["gpu"] * 11
    all_places += ["partial"]
    all_places += ["ram"] * max(n_layers - 12, 0)
    return tuple(all_places[:n_layers])


def an_engine(*, model: str = "Qwen3-30B-A3B", n_layers: int = 48) -> EngineStatus:
    on_gpu = BufferUse(device="CUDA0", weights_bytes=3 * GIB, kv_bytes=GIB // 2, compute_bytes=GIB // 4)
    return EngineStatus(
        pid=10,
        identity="boot:1",
        front_end="chat",
        model=model,
        plan=PLAN,
        device="CUDA0",
        state="answering",
        started_s=1.0,
        buffers=(on_gpu,),
        expert_places=places(n_layers),
        n_ctx=32768,
        n_ctx_used=2048,
        decode_tps=38.5,
        n_requests=12,
    )


def a_view(
    *, lost: bool = False, n_gpus: int = 1, engines: tuple[EngineStatus, ...] | None = None
) -> MemoryView:
    """Return a busy machine."""
    gpus = [a_gpu(index=index, lost=lost) for index in range(n_gpus)]
    engines = (an_engine(),) if engines is None else engines
    past = [n / 40 for n in range(40)]
    return MemoryView(
        overview=Overview(sample=a_sample(*gpus), engines=engines),
        device_use={f"GPU {index}": past for index in range(n_gpus)},
        ram_use=past,
    )

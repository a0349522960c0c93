"""Made-up samples for tests of what is computed from them."""

from __future__ import annotations

from edgeapp.hardware import GpuProcess, GpuSample, ProgramMemory
from edgeapp.monitor.samples import MemorySample, RamSample, merge_devices

GIB = 1024**3
CARD = "NVIDIA GeForce RTX 4060"


def a_gpu(
    *,
    index: int = 0,
    name: str = CARD,
    total_bytes: int = 8 * GIB,
    free_bytes: int = 3 * GIB,
    ours_bytes: int = 4 * GIB,
    other_bytes: int = GIB // 2,
    lost: bool = False,
) -> GpuSample:
    return GpuSample(
        index=index,
        name=name,
        total_bytes=total_bytes,
        free_bytes=free_bytes,
        ours=(GpuProcess(pid=1, name="python", used_bytes=ours_bytes),),
        others=(GpuProcess(pid=2, name="firefox", used_bytes=other_bytes),),
        utilisation_percent=45,
        memory_utilisation_percent=30,
        temperature_c=61,
        power_w=98.4,
        power_limit_w=115.0,
        pcie_generation=4,
        pcie_max_generation=4,
        pcie_width=8,
        pcie_max_width=16,
        throttles=(),
        lost=lost,
    )


def some_ram(
    *,
    available_bytes: int = 20 * GIB,
    ours_bytes: int = 2 * GIB,
    mapped_bytes: int = 6 * GIB,
    total_swap_bytes: int = 8 * GIB,
) -> RamSample:
    return RamSample(
        total_bytes=32 * GIB,
        available_bytes=available_bytes,
        ours_bytes=ours_bytes,
        mapped_bytes=mapped_bytes,
        total_swap_bytes=total_swap_bytes,
        free_swap_bytes=total_swap_bytes * 3 // 4,
        others=(ProgramMemory(name="chrome", used_bytes=4 * GIB), ProgramMemory(name="code", used_bytes=GIB)),
    )


def a_sample(*gpus: GpuSample, ram: RamSample | None = None, time_s: float = 0.0) -> MemorySample:
    return MemorySample(time_s=time_s, devices=merge_devices(gpus, ()), ram=ram or some_ram())

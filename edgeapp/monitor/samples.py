"""One look at all memory of the machine: GPUs, RAM, swap, and who holds it.

GPUs come from NVML; those that NVML does not know (other makers, devices behind RPC) from what the engine
reports of them. Sampling takes a millisecond or two; nothing here shows anything.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeVar

from edgeapp.cleantext import clean_line
from edgeapp.hardware import (
    GpuSample,
    GpuSampler,
    ProgramMemory,
    biggest_programs,
    process_memory,
    read_host,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Sequence
    from types import TracebackType

    from edgeapp.protocol import Device

_Seen = TypeVar("_Seen")

_PROGRAMS_PERIOD_S = 5.0
"""Looking at every process of the machine takes some 30 ms, so it is not done every time."""
_N_PROGRAMS = 5


@dataclass(frozen=True, kw_only=True)
class DeviceSample:
    """Memory of one device. `gpu` is what NVML says beyond it; None where the engine is the only source."""

    name: str
    """"GPU 0" for NVML's first, else ggml's name."""
    description: str
    total_bytes: int
    free_bytes: int
    gpu: GpuSample | None = None

    @property
    def used_bytes(self) -> int:
        return max(self.total_bytes - self.free_bytes, 0)

    @property
    def lost(self) -> bool:
        return self.gpu is not None and self.gpu.lost


@dataclass(frozen=True, kw_only=True)
class RamSample:
    """Host memory. What is available counts the file cache, mapped weights included: it can be dropped."""

    total_bytes: int
    available_bytes: int
    ours_bytes: int
    """Private memory of our processes."""
    mapped_bytes: int
    """Pages of files, above all weights, that our processes have mapped and that are in memory now."""
    total_swap_bytes: int
    free_swap_bytes: int
    others: tuple[ProgramMemory, ...] = ()
    """Programs that are not ours, the biggest first; some seconds old."""

    @property
    def used_bytes(self) -> int:
        return max(self.total_bytes - self.available_bytes, 0)

    @property
    def used_swap_bytes(self) -> int:
        return max(self.total_swap_bytes - self.free_swap_bytes, 0)


@dataclass(frozen=True, kw_only=True)
class MemorySample:
    time_s: float
    """Of the monotonic clock."""
    devices: tuple[DeviceSample, ...]
    ram: RamSample


class MemorySampler:
    """Looks at memory. Not for two threads at once; `close()` it, or use it as a context manager."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._gpus = GpuSampler(clock=clock)
        self._others: tuple[ProgramMemory, ...] = ()
        self._others_at_s = float("-inf")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._gpus.close()

    def sample(
        self, our_pids: Collection[int] = (), *, engine_devices: Sequence[Device] = ()
    ) -> MemorySample:
        """Return memory now. `our_pids` are counted as ours; `engine_devices` are what engines report."""
        gpus = self._gpus.sample(our_pids)
        return MemorySample(
            time_s=self._clock(),
            devices=merge_devices(gpus, engine_devices),
            ram=self._sample_ram(our_pids),
        )

    def _sample_ram(self, our_pids: Collection[int]) -> RamSample:
        host = read_host()
        ours = [process_memory(pid) for pid in our_pids]
        return RamSample(
            total_bytes=host.total_ram_bytes,
            available_bytes=host.available_ram_bytes,
            ours_bytes=sum(process.private_bytes for process in ours),
            mapped_bytes=max((process.mapped_bytes for process in ours), default=0),
            total_swap_bytes=host.total_swap_bytes,
            free_swap_bytes=host.free_swap_bytes,
            others=self._other_programs(our_pids),
        )

    def _other_programs(self, our_pids: Collection[int]) -> tuple[ProgramMemory, ...]:
        if self._clock() - self._others_at_s >= _PROGRAMS_PERIOD_S:
            self._others_at_s = self._clock()
            self._others = biggest_programs(_N_PROGRAMS, except_pids=our_pids)
        return self._others


def merge_devices(gpus: Sequence[GpuSample], engine_devices: Sequence[Device]) -> tuple[DeviceSample, ...]:
    """Return NVML's cards, then the GPUs that only engines know, each once."""
    known = [
        DeviceSample(
            name=f"GPU {gpu.index}",
            description=gpu.name,
            total_bytes=gpu.total_bytes,
            free_bytes=gpu.free_bytes,
            gpu=gpu,
        )
        for gpu in gpus
    ]
    names = {gpu.name for gpu in gpus}
    others = {
        device.name: DeviceSample(
            name=clean_line(device.name, max_chars=60),
            description=clean_line(device.description, max_chars=60),
            total_bytes=device.total_bytes,
            free_bytes=device.free_bytes,
        )
        for device in engine_devices
        if device.kind in {"gpu", "igpu"} and not _is_nvidia(device, names)
    }
    return (*known, *others.values())


def _is_nvidia(device: Device, names: Collection[str]) -> bool:
    return device.description in names or (bool(names) and device.name.startswith("CUDA"))


async def watch(look: Callable[[], _Seen], period_s: float) -> AsyncIterator[_Seen]:
    """Yield what `look` sees now and then every `period_s`. It runs in a thread: a sick driver is slow."""
    while True:
        yield await asyncio.to_thread(look)
        await asyncio.sleep(period_s)

"""What the GPUs do at this moment, asked again and again: memory, who holds it, load, heat, power, PCIe.

NVML stays open between samples. Whatever a card or driver does not support is None, a card that is gone is
`lost`. Knows no engine; process ids of our own are handed in.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, Final, Self

from edgeapp.cleantext import clean_line
from edgeapp.hardware.gpu_sample import GpuProcess, GpuSample
from edgeapp.hardware.processes import process_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from types import TracebackType

_RETRY_S: Final = 5.0
"""How long a driver that does not answer is left alone."""

_SURELY_GONE: Final = frozenset({1, 9, 15, 16})
"""nvmlReturn_t: uninitialized, driver not loaded, GPU is lost, reset required."""
_GONE: Final = _SURELY_GONE | {2, 6, 28, 999}
"""Also invalid, not found and unknown: what is said of a card that did not come back from suspend."""

_THROTTLES: Final = (
    (0x004, "power cap"),
    (0x008, "hardware slowdown"),
    (0x020, "thermal"),
    (0x040, "thermal"),
    (0x080, "power brake"),
)
"""Bits of nvmlClocksEventReasons in nvml.h that mean slower than wanted."""


class GpuSampler:
    """Asks NVML. Not for two threads at once; `close()` it, or use it as a context manager."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._nvml: Any = None
        self._next_try_s = float("-inf")
        self._last: dict[int, GpuSample] = {}
        self._names: dict[int, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of NVML. A later sample opens it again."""
        if self._nvml is not None:
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()
        self._nvml = None

    def sample(self, our_pids: Collection[int] = ()) -> tuple[GpuSample, ...]:
        """Return every card, lost ones included; empty without a driver. Never raises for a sick driver."""
        if self._nvml is None and not self._open():
            return self._all_lost()
        nvml = self._nvml
        try:
            indices = range(max(int(nvml.nvmlDeviceGetCount()), len(self._last)))
        except nvml.NVMLError as problem:
            return self._without_driver(problem)
        samples = (self._sample_one(nvml, index, our_pids) for index in indices)
        self._last = {sample.index: sample for sample in samples if sample is not None}
        self._forget_names()
        return tuple(self._last.values())

    def _without_driver(self, problem: Any) -> tuple[GpuSample, ...]:
        if problem.value not in _GONE:
            return tuple(self._last.values())
        self.close()
        self._next_try_s = self._clock() + _RETRY_S
        return self._all_lost()

    def _open(self) -> bool:
        import pynvml

        if self._clock() < self._next_try_s:
            return False
        self._next_try_s = self._clock() + _RETRY_S
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            return False
        self._nvml = pynvml
        return True

    def _all_lost(self) -> tuple[GpuSample, ...]:
        self._last = {index: _lost(sample) for index, sample in self._last.items()}
        return tuple(self._last.values())

    def _sample_one(self, nvml: Any, index: int, our_pids: Collection[int]) -> GpuSample | None:
        before = self._last.get(index)
        try:
            return self._read(nvml, index, our_pids)
        except nvml.NVMLError as problem:
            if problem.value not in _GONE:
                return before  # busy, or not ours to read
            unseen = GpuSample(index=index, name=f"GPU {index}", total_bytes=0, free_bytes=0)
            return _lost(before or unseen)

    def _read(self, nvml: Any, index: int, our_pids: Collection[int]) -> GpuSample:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        processes = sorted(self._processes(nvml, handle), key=_size, reverse=True)
        rates = _optional(nvml, nvml.nvmlDeviceGetUtilizationRates, handle)
        power_mw = _optional(nvml, nvml.nvmlDeviceGetPowerUsage, handle)
        limit_mw = _optional(nvml, nvml.nvmlDeviceGetEnforcedPowerLimit, handle)
        reasons = _optional(nvml, nvml.nvmlDeviceGetCurrentClocksEventReasons, handle)
        if reasons is None:  # the name before driver 535
            reasons = _optional(nvml, nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
        return GpuSample(
            index=index,
            name=self._card_name(nvml, index, handle),
            total_bytes=int(memory.total),
            free_bytes=int(memory.free),
            ours=tuple(process for process in processes if process.pid in our_pids),
            others=tuple(process for process in processes if process.pid not in our_pids),
            utilisation_percent=None if rates is None else int(rates.gpu),
            memory_utilisation_percent=None if rates is None else int(rates.memory),
            temperature_c=_optional(nvml, nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
            power_w=None if power_mw is None else power_mw / 1000,
            power_limit_w=None if limit_mw is None else limit_mw / 1000,
            pcie_generation=_optional(nvml, nvml.nvmlDeviceGetCurrPcieLinkGeneration, handle),
            pcie_max_generation=_optional(nvml, nvml.nvmlDeviceGetMaxPcieLinkGeneration, handle),
            pcie_width=_optional(nvml, nvml.nvmlDeviceGetCurrPcieLinkWidth, handle),
            pcie_max_width=_optional(nvml, nvml.nvmlDeviceGetMaxPcieLinkWidth, handle),
            throttles=None if reasons is None else throttle_names(int(reasons)),
        )

    def _card_name(self, nvml: Any, index: int, handle: Any) -> str:
        known = self._last.get(index)
        if known is not None and not known.lost:
            return known.name
        name = nvml.nvmlDeviceGetName(handle)
        return clean_line(name.decode(errors="replace") if isinstance(name, bytes) else name)

    def _processes(self, nvml: Any, handle: Any) -> Iterator[GpuProcess]:
        """Yield each process once, though it computes and draws: both lists name the same memory."""
        compute = _optional(nvml, nvml.nvmlDeviceGetComputeRunningProcesses, handle) or []
        graphics = _optional(nvml, nvml.nvmlDeviceGetGraphicsRunningProcesses, handle) or []
        held = {int(process.pid): process.usedGpuMemory for process in (*graphics, *compute)}
        for pid, used_bytes in held.items():
            if pid not in self._names:
                self._names[pid] = process_name(pid) or f"process {pid}"
            yield GpuProcess(
                pid=pid, name=self._names[pid], used_bytes=None if used_bytes is None else int(used_bytes)
            )

    def _forget_names(self) -> None:
        """A number that is not in use now may belong to another program when it comes back."""
        samples = self._last.values()
        seen = {process.pid for sample in samples for process in (*sample.ours, *sample.others)}
        self._names = {pid: name for pid, name in self._names.items() if pid in seen}


def throttle_names(reasons: int) -> tuple[str, ...]:
    """Return the words for NVML's bit mask of clock event reasons, each once; idleness is none."""
    return tuple(dict.fromkeys(name for bit, name in _THROTTLES if reasons & bit))


def _optional(nvml: Any, ask: Callable[..., Any], *arguments: Any) -> Any:
    """Return NVML's answer, None when it has none. That the card is gone is passed on."""
    try:
        return ask(*arguments)
    except nvml.NVMLError as problem:
        if problem.value in _SURELY_GONE:
            raise
        return None


def _lost(sample: GpuSample) -> GpuSample:
    """Return what is still true of a card that no longer answers."""
    return GpuSample(
        index=sample.index, name=sample.name, total_bytes=sample.total_bytes, free_bytes=0, lost=True
    )


def _size(process: GpuProcess) -> int:
    return process.used_bytes or 0

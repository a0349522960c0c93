"""Facts about this machine: GPUs, memory, CPU, the memory of a process. The only door to NVML and psutil.

Everything is read at the moment of the call and handed out as frozen values. Knows no model and no plan.
What NVML cannot say (no driver, no library, a card that fell off the bus) is a fact too, not an exception.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from edgeapp.cleantext import clean_line

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROC = Path("/proc")
_SYS = Path("/sys")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One NVIDIA GPU now. `index` is NVML's, which follows the PCI bus."""

    index: int
    name: str
    total_bytes: int
    free_bytes: int
    driver_version: str
    compute_capability: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class GpuReading:
    """The GPUs that answered, and one sentence for everything that did not."""

    gpus: tuple[Gpu, ...]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Host:
    """CPU and memory as far as this process may use them: CPU affinity and cgroup limits are applied."""

    total_ram_bytes: int
    available_ram_bytes: int
    total_swap_bytes: int
    free_swap_bytes: int
    cpu_model: str
    physical_cores: int
    logical_cores: int


def read_gpus() -> GpuReading:
    """Return every NVIDIA GPU that answers. No GPU and no driver is an empty reading without a problem."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        return GpuReading(gpus=(), problems=_silent_devices())
    except pynvml.NVMLError as problem:
        return GpuReading(gpus=(), problems=(f"The NVIDIA driver does not answer: {problem}.",))
    try:
        return _read_all(pynvml)
    except pynvml.NVMLError as problem:
        return GpuReading(gpus=(), problems=(f"The NVIDIA driver does not answer: {problem}.",))
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def read_host() -> Host:
    """Return CPU and memory of this machine, within the limits set for this process."""
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    total_bytes, available_bytes = memory.total, memory.available
    for limit_bytes, free_bytes in _cgroup_memory():
        total_bytes, available_bytes = min(total_bytes, limit_bytes), min(available_bytes, free_bytes)
    allowed = os.sched_getaffinity(0)
    quota = _cgroup_cpu_quota()
    return Host(
        total_ram_bytes=total_bytes,
        available_ram_bytes=available_bytes,
        total_swap_bytes=swap.total,
        free_swap_bytes=swap.free,
        cpu_model=_cpu_model(),
        physical_cores=max(1, min(_physical_cores(allowed), quota)),
        logical_cores=max(1, min(len(allowed), quota)),
    )


def process_rss_bytes(pid: int) -> int:
    """Return the resident memory of process `pid`, 0 when there is no such process any more."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0


# GPUs ----------------------------------------------------------------------------------------------------


def _read_all(nvml: Any) -> GpuReading:
    gpus, problems = [], []
    driver_version = _text(nvml.nvmlSystemGetDriverVersion())
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            gpus.append(_read_one(nvml, index, driver_version))
        except nvml.NVMLError as problem:  # lost, in reset, or not ours to read: the others still count
            problems.append(f"GPU {index} does not answer: {problem}.")
    return GpuReading(gpus=tuple(gpus), problems=tuple(problems))


def _read_one(nvml: Any, index: int, driver_version: str) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Gpu(
        index=index,
        name=clean_line(_text(nvml.nvmlDeviceGetName(handle))),
        total_bytes=int(memory.total),
        free_bytes=int(memory.free),
        driver_version=driver_version,
        compute_capability=(int(major), int(minor)),
    )


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


_NVIDIA_VENDOR = "0x10de"
_DISPLAY_CLASS = "0x03"  # PCI base class 03: VGA and 3D controllers


def _silent_devices() -> tuple[str, ...]:
    """Say so when the PCI bus holds an NVIDIA card that no driver speaks for."""
    for device in (_SYS / "bus/pci/devices").glob("*"):
        vendor, kind = _first_line(device / "vendor"), _first_line(device / "class")
        if vendor == _NVIDIA_VENDOR and kind.startswith(_DISPLAY_CLASS):
            return ("There is an NVIDIA GPU on the PCI bus, but its driver is not loaded.",)
    return ()


# CPU -----------------------------------------------------------------------------------------------------


def _cpu_model() -> str:
    try:
        lines = (_PROC / "cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2] for line in lines if line.startswith("model name"))
    return clean_line(next(named, "")) or os.uname().machine


def _physical_cores(allowed: set[int]) -> int:
    """Count cores, not hyper-threads, among the CPUs in `allowed`: siblings share one core."""
    cores = {_siblings(cpu) or str(cpu) for cpu in allowed}
    return len(cores)


def _siblings(cpu: int) -> str:
    return _first_line(_SYS / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")


# Control groups ------------------------------------------------------------------------------------------


def _cgroup_folders() -> Iterator[Path]:
    """Yield this process's cgroup v2 folder and its parents: the tightest limit on the way up holds."""
    root = _SYS / "fs/cgroup"
    for line in _lines(_PROC / "self/cgroup"):
        if line.startswith("0::"):
            folder = root / line.removeprefix("0::").lstrip("/")
            yield folder
            yield from (parent for parent in folder.parents if parent.is_relative_to(root))


def _cgroup_memory() -> Iterator[tuple[int, int]]:
    """Yield (limit, free) in bytes of every limited cgroup; cache that the kernel can drop is free."""
    for folder in _cgroup_folders():
        limit, used = _first_line(folder / "memory.max"), _first_line(folder / "memory.current")
        if limit.isdigit() and used.isdigit():
            in_use_bytes = max(int(used) - _droppable_cache_bytes(folder), 0)
            yield int(limit), max(int(limit) - in_use_bytes, 0)


def _droppable_cache_bytes(folder: Path) -> int:
    cached = (line.split() for line in _lines(folder / "memory.stat"))
    return sum(int(value) for name, value in cached if name in ("inactive_file", "active_file"))


def _cgroup_cpu_quota() -> int:
    """Return how many whole CPUs the cgroups grant, at least 1; the machine's count without a quota."""
    granted = os.cpu_count() or 1
    for folder in _cgroup_folders():
        quota_us, _, period_us = _first_line(folder / "cpu.max").partition(" ")
        if quota_us.isdigit() and period_us.isdigit():
            granted = min(granted, max(int(quota_us) // int(period_us), 1))
    return granted


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _first_line(path: Path) -> str:
    return next(iter(_lines(path)), "").strip()

"""CPU and memory of this machine, as far as this process may use them."""

from __future__ import annotations

import os
from dataclasses import dataclass

import psutil

from edgeapp.cleantext import clean_line
from edgeapp.hardware import system_files
from edgeapp.hardware.cgroups import cgroup_cpu_quota, cgroup_memory
from edgeapp.hardware.system_files import first_line, lines


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


def read_host() -> Host:
    """Return CPU and memory of this machine, within the limits set for this process."""
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    total_bytes, available_bytes = memory.total, memory.available
    for limit_bytes, free_bytes in cgroup_memory():
        total_bytes, available_bytes = min(total_bytes, limit_bytes), min(available_bytes, free_bytes)
    allowed = os.sched_getaffinity(0)
    quota = cgroup_cpu_quota()
    return Host(
        total_ram_bytes=total_bytes,
        available_ram_bytes=available_bytes,
        total_swap_bytes=swap.total,
        free_swap_bytes=swap.free,
        cpu_model=_cpu_model(),
        physical_cores=max(1, min(_physical_cores(allowed), quota)),
        logical_cores=max(1, min(len(allowed), quota)),
    )


def _cpu_model() -> str:
    cpuinfo = lines(system_files.PROC / "cpuinfo")
    named = (line.partition(":")[2] for line in cpuinfo if line.startswith("model name"))
    return clean_line(next(named, "")) or os.uname().machine


def _physical_cores(allowed: set[int]) -> int:
    """Count cores, not hyper-threads, among the CPUs in `allowed`: siblings share one core.

    Of a hybrid CPU only the performance cores: a matrix product is as fast as its slowest thread.
    """
    fast = allowed & _performance_cpus() or allowed
    return len({_siblings(cpu) or str(cpu) for cpu in fast})


def _performance_cpus() -> set[int]:
    """Return the CPUs of a hybrid's performance cores (Linux, Intel: the PMU `cpu_core`); none elsewhere."""
    listed = first_line(system_files.SYS / "devices/cpu_core/cpus")
    ranges = (part.partition("-") for part in listed.split(",") if part)
    try:
        return {cpu for first, _, last in ranges for cpu in range(int(first), int(last or first) + 1)}
    except ValueError:
        return set()


def _siblings(cpu: int) -> str:
    return first_line(system_files.SYS / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")

"""How busy the CPUs are and what a process has cost so far. Two readings say what happened between them."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import psutil

from edgeapp.hardware import system_files
from edgeapp.hardware.system_files import first_line, lines

_MAJOR_FAULTS, _CPU_TICKS = 9, slice(11, 13)
"""Indices of `majflt`, `utime` and `stime` in /proc/<pid>/stat behind the name, see proc_pid_stat(5)."""


@dataclass(frozen=True, kw_only=True)
class WorkReading:
    """Counters at one moment. The CPUs are all of the machine, though this process may be limited to some."""

    at_s: float
    """Of the monotonic clock."""
    n_cpus: int
    busy_s: float
    """CPU seconds of all programs, and those that a hypervisor gave to other guests."""
    process_s: float
    """CPU seconds of the process and of this one; 0 when it is gone."""
    major_faults: int
    """Pages of the process that had to be read from a disk."""
    swapped_in_bytes: int
    """Of all programs, since the start of the machine."""


def read_work(pid: int) -> WorkReading:
    """Return the counters of the machine and of process `pid`."""
    cpu = psutil.cpu_times()
    _, _, fields = first_line(system_files.PROC / str(pid) / "stat").rpartition(")")
    values = fields.split()
    own_s = time.process_time()
    return WorkReading(
        at_s=time.monotonic(),
        n_cpus=os.cpu_count() or 1,
        busy_s=cpu.user + cpu.nice + cpu.system + cpu.irq + cpu.softirq + cpu.steal,
        process_s=own_s + sum(map(int, values[_CPU_TICKS])) / os.sysconf("SC_CLK_TCK"),
        major_faults=int(values[_MAJOR_FAULTS]) if len(values) > _MAJOR_FAULTS else 0,
        swapped_in_bytes=_pages_swapped_in() * os.sysconf("SC_PAGE_SIZE"),
    )


def _pages_swapped_in() -> int:
    """Return the kernel's count. psutil's `sin` is the same, but warns where there is none."""
    for line in lines(system_files.PROC / "vmstat"):
        name, _, count = line.partition(" ")
        if name == "pswpin" and count.isdigit():
            return int(count)
    return 0

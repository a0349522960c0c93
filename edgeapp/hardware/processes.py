"""Which processes there are, what they are called, and how much host memory they hold."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from edgeapp.cleantext import clean_line
from edgeapp.hardware import system_files
from edgeapp.hardware.system_files import first_line

if TYPE_CHECKING:
    from collections.abc import Collection

_START_TIME = 19
"""Index of `starttime` in /proc/<pid>/stat behind the command's name, see proc_pid_stat(5)."""


@dataclass(frozen=True, kw_only=True)
class ProgramMemory:
    """Host memory of all processes of one name, not counting what they share with others."""

    name: str
    used_bytes: int


@dataclass(frozen=True, kw_only=True)
class ProcessMemory:
    """Resident host memory of one process."""

    private_bytes: int
    mapped_bytes: int
    """Pages of files and memory shared with other processes."""


def process_memory(pid: int) -> ProcessMemory:
    """Return what process `pid` holds, nothing when it is gone."""
    try:
        memory = psutil.Process(pid).memory_info()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ProcessMemory(private_bytes=0, mapped_bytes=0)
    return ProcessMemory(private_bytes=max(memory.rss - memory.shared, 0), mapped_bytes=int(memory.shared))


def process_rss_bytes(pid: int) -> int:
    """Return the resident memory of process `pid`, 0 when there is no such process any more."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0


def process_name(pid: int) -> str:
    """Return what process `pid` is called, cleaned; empty when it is gone or hidden."""
    try:
        return clean_line(psutil.Process(pid).name(), max_chars=40)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ""


def process_identity(pid: int) -> str:
    """Return a text that only this process has, though its number is used again; empty when it is gone.

    A zombie counts as gone.
    """
    _, _, fields = first_line(system_files.PROC / str(pid) / "stat").rpartition(")")
    values = fields.split()
    if len(values) <= _START_TIME or values[0] == "Z":
        return ""
    return f"{boot_identity()}:{values[_START_TIME]}"


def child_pids(pid: int) -> tuple[int, ...]:
    """Return the children of process `pid`; none when it is gone or the kernel does not keep the list."""
    threads = (system_files.PROC / str(pid) / "task").glob("*")
    children = " ".join(first_line(thread / "children") for thread in threads).split()
    return tuple(int(child) for child in children if child.isdigit())


def boot_identity() -> str:
    """Return a text that is another one after every boot, and on every machine."""
    return first_line(system_files.PROC / "sys/kernel/random/boot_id")


def biggest_programs(count: int, *, except_pids: Collection[int] = ()) -> tuple[ProgramMemory, ...]:
    """Return the `count` programs that hold most host memory, the biggest first."""
    held_bytes: Counter[str] = Counter()
    for process in psutil.process_iter():
        if process.pid in except_pids:
            continue
        try:
            memory = process.memory_info()
            held_bytes[clean_line(process.name(), max_chars=40)] += max(memory.rss - memory.shared, 0)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return tuple(ProgramMemory(name=name, used_bytes=held) for name, held in held_bytes.most_common(count))

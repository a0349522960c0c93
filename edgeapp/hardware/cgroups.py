"""The limits that control groups (version 2) set for this process."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from edgeapp.hardware import system_files
from edgeapp.hardware.system_files import first_line, lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def _cgroup_folders() -> Iterator[Path]:
    """Yield this process's cgroup v2 folder and its parents: the tightest limit on the way up holds."""
    root = system_files.SYS / "fs/cgroup"
    for line in lines(system_files.PROC / "self/cgroup"):
        if line.startswith("0::"):
            folder = root / line.removeprefix("0::").lstrip("/")
            yield folder
            yield from (parent for parent in folder.parents if parent.is_relative_to(root))


def cgroup_memory() -> Iterator[tuple[int, int]]:
    """Yield (limit, free) in bytes of every limited cgroup; cache that the kernel can drop is free."""
    for folder in _cgroup_folders():
        limit, used = first_line(folder / "memory.max"), first_line(folder / "memory.current")
        if limit.isdigit() and used.isdigit():
            in_use_bytes = max(int(used) - _droppable_cache_bytes(folder), 0)
            yield int(limit), max(int(limit) - in_use_bytes, 0)


def _droppable_cache_bytes(folder: Path) -> int:
    cached = (line.split() for line in lines(folder / "memory.stat"))
    return sum(int(value) for name, value in cached if name in ("inactive_file", "active_file"))


def cgroup_cpu_quota() -> int:
    """Return how many whole CPUs the cgroups grant, at least 1; the machine's count without a quota."""
    granted = os.cpu_count() or 1
    for folder in _cgroup_folders():
        quota_us, _, period_us = first_line(folder / "cpu.max").partition(" ")
        if quota_us.isdigit() and period_us.isdigit():
            granted = min(granted, max(int(quota_us) // int(period_us), 1))
    return granted

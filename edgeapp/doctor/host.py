"""Python, CPU, memory, disk and the folders we write to."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from edgeapp import paths
from edgeapp.doctor.finding import GIB, Finding, in_gib, shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeapp.doctor.finding import Level
    from edgeapp.hardware import Host, ProgramMemory

_MIN_PYTHON = (3, 11)
_LOW_RAM_BYTES = 2 * GIB  # a small model with its context
_MUCH_SWAP_BYTES = 2 * GIB
_LOW_DISK_BYTES = 10 * GIB  # one 4-bit model of the size this application is made for
_NO_DISK_BYTES = 1 * GIB


def check_python(version: tuple[int, ...]) -> Finding:
    shown = ".".join(map(str, version))
    if version < _MIN_PYTHON:
        fix = "install Python 3.11 or newer, then run `make run` again"
        return Finding(check="python", level="fail", found=f"Python {shown} is too old", fix=fix)
    return Finding(check="python", level="ok", found=f"Python {shown} on {platform.machine()}")


def check_cpu(host: Host) -> Finding:
    threads = f"{host.physical_cores} cores, {host.logical_cores} threads usable"
    return Finding(check="cpu", level="ok", found=f"{host.cpu_model}: {threads}")


def check_ram(host: Host, programs: Sequence[ProgramMemory] = ()) -> Finding:
    """Judge whether RAM is left for a model. `programs` are those that hold most, the biggest first."""
    found = f"{in_gib(host.available_ram_bytes)} of {in_gib(host.total_ram_bytes)} available"
    if host.available_ram_bytes < _LOW_RAM_BYTES:
        names = ", ".join(f"{program.name} holds {in_gib(program.used_bytes)}" for program in programs)
        fix = "close other programs, or choose a smaller model" + (f"; {names}" if names else "")
        return Finding(check="ram", level="warn", found=found, fix=fix)
    return Finding(check="ram", level="ok", found=found)


def check_swap(host: Host) -> Finding:
    """Judge whether the system had to move much of its memory to disk."""
    if not host.total_swap_bytes:
        found = "none; when RAM is full, the system ends a program"
        return Finding(check="swap", level="ok", found=found)
    used_bytes = max(host.total_swap_bytes - host.free_swap_bytes, 0)
    found = f"{in_gib(used_bytes)} of {in_gib(host.total_swap_bytes)} in use"
    if used_bytes < _MUCH_SWAP_BYTES:
        return Finding(check="swap", level="ok", found=found)
    fix = "close other programs: weights that were swapped out make answers many times slower"
    return Finding(check="swap", level="warn", found=found, fix=fix)


def check_disk(folder: Path, free_bytes: int) -> Finding:
    found = f"{in_gib(free_bytes)} free for models in {shown(folder)}"
    if free_bytes >= _LOW_DISK_BYTES:
        return Finding(check="disk", level="ok", found=found)
    level: Level = "fail" if free_bytes < _NO_DISK_BYTES else "warn"
    fix = "free some space (`edgeapp models rm`), or set EDGEAPP_HOME to a folder on a larger disk"
    return Finding(check="disk", level=level, found=found, fix=fix)


def check_writable(name: str, folder: Path) -> Finding:
    """Judge whether `folder` exists, or can be made, and be written to. Creates nothing."""
    there = _nearest_existing(folder)
    if not there.is_dir():
        fix = f"move {shown(there)} away, or set EDGEAPP_HOME to another folder"
        return Finding(check=name, level="fail", found=f"{shown(there)} is not a folder", fix=fix)
    if not os.access(there, os.W_OK | os.X_OK):
        fix = f"make {shown(there)} yours (chown), or set EDGEAPP_HOME to another folder"
        return Finding(check=name, level="fail", found=f"{shown(there)} cannot be written", fix=fix)
    state = "" if there == folder else " (will be created)"
    return Finding(check=name, level="ok", found=f"{shown(folder)}{state}")


def folders() -> Mapping[str, Path]:
    return {
        "config folder": paths.config_file().parent,
        "models folder": paths.models_dir(),
        "log folder": paths.log_dir(),
    }


def free_disk_bytes(folder: Path) -> int:
    return shutil.disk_usage(_nearest_existing(folder)).free


def _nearest_existing(folder: Path) -> Path:
    return next((p for p in (folder, *folder.parents) if os.path.lexists(p)), Path("/"))

"""Whether there is a GPU, and whether the engine uses it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from edgeapp.cleantext import clean_line
from edgeapp.doctor.engine import gpu_devices
from edgeapp.doctor.finding import GIB, Finding, in_gib
from edgeapp.hardware import GpuSampler, child_pids
from edgeapp.monitor.running import read_running

if TYPE_CHECKING:
    from edgeapp.doctor.engine import EngineAnswer
    from edgeapp.hardware import GpuReading, GpuSample

_MUCH_VRAM_BYTES = GIB  # a desktop with a browser stays below
_N_NAMED = 3
_REBUILD = "install NVIDIA's CUDA toolkit (it brings nvcc), then run `make run` again to rebuild the engine"


def check_gpu(reading: GpuReading, answer: EngineAnswer) -> Finding:
    if reading.problems:
        fix = "install or reload NVIDIA's driver and reboot; `nvidia-smi` must list the GPU"
        return Finding(check="gpu", level="warn", found=" ".join(reading.problems), fix=fix)
    if not reading.gpus:
        others = ", ".join(map(clean_line, gpu_devices(answer)))
        found = f"{others} (not NVIDIA)" if others else "no NVIDIA GPU; models run on the CPU"
        return Finding(check="gpu", level="ok", found=found)
    cards = "; ".join(
        f"{gpu.name}, {in_gib(gpu.free_bytes)} of {in_gib(gpu.total_bytes)} free, driver {gpu.driver_version}"
        for gpu in reading.gpus
    )
    if answer.hello is not None and not gpu_devices(answer):
        found = f"{cards}, but the engine was built for the CPU only"
        return Finding(check="gpu", level="warn", found=found, fix=_REBUILD)
    return Finding(check="gpu", level="ok", found=cards)


def sample_cards() -> tuple[GpuSample, ...]:
    """Look at every card; the processes of running engines count as ours."""
    ours = {pid for engine in read_running() for pid in (engine.pid, *child_pids(engine.pid))}
    with GpuSampler() as sampler:
        return sampler.sample(ours)


def check_vram(card: GpuSample) -> Finding:
    """Judge whether other programs leave enough of one card. What our running engines hold is not counted."""
    if card.lost:
        fix = "reboot; when it happens again, look at the card's power supply, heat and seat"
        found = f"{card.name} is lost: the driver cannot reach it any more"
        return Finding(check="vram", level="warn", found=found, fix=fix)
    others = [other for other in card.others if other.used_bytes]
    held_bytes = sum(other.used_bytes or 0 for other in others)
    found = f"{in_gib(card.free_bytes)} of {in_gib(card.total_bytes)} free"
    if not held_bytes:
        return Finding(check="vram", level="ok", found=f"{found}, no other program holds any")
    names = ", ".join(f"{other.name} {in_gib(other.used_bytes or 0)}" for other in others[:_N_NAMED])
    found = f"{found}; other programs hold {in_gib(held_bytes)}: {names}"
    if held_bytes < _MUCH_VRAM_BYTES:
        return Finding(check="vram", level="ok", found=found)
    fix = f"close {others[0].name}, or leave it: models are placed into what is free"
    return Finding(check="vram", level="warn", found=found, fix=fix)


def find_cuda_toolkit() -> str:
    """Return the version of the CUDA toolkit's compiler; empty when there is none."""
    nvcc = shutil.which("nvcc") or next(map(str, Path("/usr/local").glob("cuda*/bin/nvcc")), None)
    if nvcc is None:
        return ""
    try:
        said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    release = re.search(r"release (\S+?),", said.stdout)
    return f"{release[1]} ({nvcc})" if release else ""


def check_cuda_toolkit(toolkit: str, reading: GpuReading, answer: EngineAnswer) -> Finding:
    if toolkit:
        return Finding(check="cuda toolkit", level="ok", found=f"CUDA {toolkit}")
    if reading.gpus and not gpu_devices(answer):
        return Finding(check="cuda toolkit", level="warn", found="no nvcc", fix=_REBUILD)
    why = "the engine is built already" if reading.gpus else "not needed without an NVIDIA GPU"
    return Finding(check="cuda toolkit", level="ok", found=f"none; {why}")

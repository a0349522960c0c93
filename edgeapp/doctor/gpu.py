"""Whether there is a GPU, and whether the engine uses it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from edgeapp.cleantext import clean_line
from edgeapp.doctor.engine import gpu_devices
from edgeapp.doctor.finding import Finding, in_gib

if TYPE_CHECKING:
    from edgeapp.doctor.engine import EngineAnswer
    from edgeapp.hardware import GpuReading

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

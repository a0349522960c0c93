"""Decide how llama.cpp is compiled for this machine. Looks at the machine, builds nothing."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from failure import SetupError

Wanted = Literal["auto", "cpu", "cuda"]

BATCHED_CMAKE = Path(__file__).with_name("batched.cmake")
# RPC costs seconds and gives tests a second "GPU" on loopback. A product build does without it.
_COMMON_CMAKE_ARGS = ("-DGGML_RPC=ON",)
_TOOLKIT_HINT = "install NVIDIA's CUDA toolkit (it brings nvcc), then call make again"


@dataclass(frozen=True, kw_only=True)
class Flavour:
    """What to compile, why, and the facts about the machine that the result depends on."""

    name: Literal["cpu", "cuda"]
    cmake_args: tuple[str, ...]
    reason: str
    built_for: tuple[str, ...]

    def key(self, version: str) -> str:
        """Name this build of `version`: another CPU, GPU, libc or option gives another name."""
        facts = [version, self.cmake_args, self.built_for, BATCHED_CMAKE.read_text()]
        return f"{version}-{self.name}-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]}"


def choose(wanted: Wanted) -> Flavour:
    """Return the build for this machine: CUDA when a GPU and nvcc are here, unless `wanted` overrules."""
    gpu, nvcc = _gpu_is_present(), _find_nvcc()
    if wanted == "cuda" and nvcc is None:
        raise SetupError("A CUDA build needs nvcc, which is not on PATH.", hint=_TOOLKIT_HINT)
    if nvcc is not None and (wanted == "cuda" or (wanted == "auto" and gpu)):
        return _cuda(nvcc, gpu=gpu)
    return _cpu(wanted, gpu=gpu)


def _cpu(wanted: Wanted, *, gpu: bool) -> Flavour:
    if wanted == "cpu":
        reason = "ENGINE=cpu was given"
    elif gpu:
        reason = f"there is an NVIDIA GPU but no nvcc; to use the GPU, {_TOOLKIT_HINT}"
    else:
        reason = "no NVIDIA GPU was found"
    return Flavour(name="cpu", cmake_args=_cmake_args(), reason=reason, built_for=_host_identity())


def _cuda(nvcc: Path, *, gpu: bool) -> Flavour:
    cuda_args = ["-DGGML_CUDA=ON", f"-DCMAKE_CUDA_COMPILER={nvcc}"]
    if gpu:
        cuda_args.append("-DCMAKE_CUDA_ARCHITECTURES=native")
    return Flavour(
        name="cuda",
        cmake_args=_cmake_args(*cuda_args),
        reason=f"{'an NVIDIA GPU and ' if gpu else ''}{nvcc} found",
        built_for=(*_host_identity(), _nvidia_smi("--query-gpu=compute_cap", "--format=csv,noheader")),
    )


def _cmake_args(*extra: str) -> tuple[str, ...]:
    return (*os.environ.get("CMAKE_ARGS", "").split(), *_COMMON_CMAKE_ARGS, *extra)


def _gpu_is_present() -> bool:
    return Path("/dev/nvidia0").exists() or "GPU " in _nvidia_smi("-L")


def _nvidia_smi(*arguments: str) -> str:
    """Return what nvidia-smi prints, or nothing when it is missing, fails or hangs."""
    program = shutil.which("nvidia-smi") or shutil.which("nvidia-smi", path="/usr/lib/wsl/lib")
    if program is None:
        return ""
    try:
        answer = subprocess.run(
            [program, *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout if answer.returncode == 0 else ""


def _find_nvcc() -> Path | None:
    on_path = shutil.which("nvcc")
    if on_path:
        return Path(on_path)
    installed = [p for p in Path("/usr/local").glob("cuda*/bin/nvcc") if os.access(p, os.X_OK)]
    return max(installed, key=_toolkit_version, default=None)


def _toolkit_version(nvcc: Path) -> tuple[int, ...]:
    _, _, version = nvcc.parent.parent.name.partition("-")
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _host_identity() -> tuple[str, ...]:
    """Return what native code depends on: the CPU's model and features, and the C library."""
    return (platform.machine(), *platform.libc_ver(), *_first_cpu())


_CPU_FIELDS = {"vendor_id", "cpu family", "model", "flags", "CPU implementer", "CPU part", "Features"}


def _first_cpu() -> tuple[str, ...]:
    first, _, _ = Path("/proc/cpuinfo").read_text().partition("\n\n")
    fields = (line.partition(":") for line in first.splitlines())
    return tuple(value.strip() for name, _, value in fields if name.strip() in _CPU_FIELDS)

"""Build llama.cpp's programs and libraries from trimmed sources, for the GPU in this machine only."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from typing import Literal

from benchmarks.gpu.toolkit import cuda_options

Backend = Literal["cpu", "cuda"]

PROGRAMS = ("llama-server", "llama-bench", "llama-fit-params")
_BATCHED = Path(__file__).parents[2] / "packaging" / "engine" / "batched.cmake"
_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_RPC=ON",  # the loopback device that stands in for a GPU where there is none
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",  # else the build fetches the server's web pages
)
_CUDA_OPTIONS = ("-DGGML_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=native")


def build(root: Path, tree: Path, backend: Backend) -> Path:
    """Build `PROGRAMS` in `tree` unless they are there, and return the folder with them and the libraries."""
    programs = tree / "bin"
    if all((programs / name).exists() for name in PROGRAMS):
        return programs
    subprocess.run(configure_command(root, tree, backend), check=True)
    jobs = str(os.cpu_count() or 1)
    subprocess.run(["cmake", "--build", str(tree), "--parallel", jobs, "--target", *PROGRAMS], check=True)
    return programs


def configure_command(root: Path, tree: Path, backend: Backend) -> list[str]:
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    options = [*_OPTIONS, *([*_CUDA_OPTIONS, *cuda_options()] if backend == "cuda" else [])]
    return [
        "cmake",
        *generator,
        "-S",
        str(root),
        "-B",
        str(tree),
        *options,
        f"-DCMAKE_PROJECT_INCLUDE={_BATCHED}",
    ]


def lend_libraries(programs: Path) -> None:
    """Let a llama-cpp-python that was packed without libraries use the ones that were built here."""
    spec = importlib.util.find_spec("llama_cpp")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        if not Path(folder, "lib").exists():
            Path(folder, "lib").symlink_to(programs.resolve(), target_is_directory=True)

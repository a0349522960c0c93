"""What a CUDA toolkit that is little more than a compiler lacks, from where else a machine may have it.

cuBLAS comes with Python's nvidia packages too, and the driver's library with the driver.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

_DRIVER_FOLDERS = ("/usr/local/nvidia/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib/wsl/lib")


def cuda_options(toolkit: Path | None = None) -> list[str]:
    """Return CMake's options for the missing parts; `toolkit` None is the one that nvcc belongs to."""
    root = toolkit or _toolkit()
    return [*_cublas_options(root), *_driver_options(root)]


def _toolkit() -> Path:
    """Ask nvcc, which may be a script that starts the real one."""
    nvcc = shutil.which("nvcc")
    installed = sorted(Path("/usr/local").glob("cuda*/bin/nvcc"))
    if nvcc is not None and (Path(nvcc).resolve().parents[1] / "lib64").exists():
        return Path(nvcc).resolve().parents[1]
    if not installed:
        raise SystemExit("nvcc is not installed")
    return installed[-1].parents[1]


def _cublas_options(root: Path) -> list[str]:
    if any(root.glob("lib64/libcublas.so*")) or any(root.glob("targets/*/lib/libcublas.so*")):
        return []
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(folder) for folder in (spec.submodule_search_locations if spec else None) or ()]
    found = [library for folder in folders for library in folder.glob("*/lib/libcublas.so.*")]
    if not found:
        raise SystemExit(f"cuBLAS is neither in {root} nor in Python's nvidia packages")
    include = found[0].parents[1] / "include"
    lt = found[0].with_name(found[0].name.replace("libcublas", "libcublasLt"))
    flags = f"-isystem {include}"
    return [
        f"-DCUDA_cublas_LIBRARY={found[0]}",
        f"-DCUDA_cublasLt_LIBRARY={lt}",
        f"-DCMAKE_CUDA_FLAGS={flags}",
        f"-DCMAKE_CXX_FLAGS={flags}",
    ]


def _driver_options(root: Path) -> list[str]:
    """Without the driver's library ggml does without virtual memory management."""
    if any(root.glob("lib64/stubs/libcuda.so")):
        return []
    found = [
        Path(folder, "libcuda.so.1") for folder in _DRIVER_FOLDERS if Path(folder, "libcuda.so.1").exists()
    ]
    return [f"-DCUDA_cuda_driver_LIBRARY={found[0]}"] if found else ["-DGGML_CUDA_NO_VMM=ON"]

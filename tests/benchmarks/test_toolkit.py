"""A CUDA build finds what a bare toolkit lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.gpu.toolkit import cuda_options

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def _touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_a_complete_toolkit_needs_nothing(tmp_path: Path) -> None:
    _touch(tmp_path / "lib64" / "libcublas.so.13")
    _touch(tmp_path / "lib64" / "stubs" / "libcuda.so")
    assert cuda_options(tmp_path) == []


def test_cublas_is_taken_from_a_python_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _touch(tmp_path / "toolkit" / "lib64" / "stubs" / "libcuda.so")
    library = _touch(tmp_path / "site" / "nvidia" / "cu13" / "lib" / "libcublas.so.13")
    monkeypatch.syspath_prepend(tmp_path / "site")
    options = cuda_options(tmp_path / "toolkit")
    assert f"-DCUDA_cublas_LIBRARY={library}" in options
    assert f"-DCMAKE_CUDA_FLAGS=-isystem {library.parents[1] / 'include'}" in options

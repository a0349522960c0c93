"""NVIDIA GPUs that are not there: a stub of NVML's library whose answers a test edits while programs run.

    def test_something(monkeypatch, tmp_path):
        nvml = FakeNvml(tmp_path, monkeypatch, gpus=[FakeGpu(total_bytes=8 << 30)])
        nvml.gpus[0].compute[pid] = 2 << 30     # a process takes 2 GiB
        nvml.save()

The stock nvidia-ml-py talks to it, in this process and in every child that inherits the environment.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pynvml

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pytest

_SOURCE = Path(__file__).with_name("fake_nvml.c")
_NAME = "libnvidia-ml.so.1"

NOT_SUPPORTED = 3
DRIVER_NOT_LOADED = 9
GPU_IS_LOST = 15
LIB_RM_VERSION_MISMATCH = 18
UNKNOWN = 999

_PLAIN_KEYS = (
    "name",
    "utilisation",
    "memory_utilisation",
    "temperature",
    "power_mw",
    "power_limit_mw",
    "pcie_generation",
    "pcie_max_generation",
    "pcie_width",
    "pcie_max_width",
    "clocks_event_reasons",
)


@dataclass(kw_only=True)
class FakeGpu:
    """One card. What is in use is `base_bytes` (driver, desktop) and what the processes hold."""

    name: str = "NVIDIA GeForce RTX 4060"
    total_bytes: int = 8 << 30
    base_bytes: int = 300 << 20
    compute: dict[int, int | None] = field(default_factory=dict)
    """Bytes by process id; None is what a driver says that does not know."""
    graphics: dict[int, int | None] = field(default_factory=dict)
    utilisation: int = 17
    memory_utilisation: int = 9
    temperature: int = 55
    power_mw: int = 42_000
    power_limit_mw: int = 115_000
    pcie_generation: int = 4
    pcie_max_generation: int = 4
    pcie_width: int = 8
    pcie_max_width: int = 8
    clocks_event_reasons: int = pynvml.nvmlClocksEventReasonGpuIdle
    fail: int = 0
    """An nvmlReturn_t that every function answers with for this card."""

    def lose(self) -> None:
        """Let the card fall off the bus."""
        self.fail = GPU_IS_LOST

    @property
    def used_bytes(self) -> int:
        holders = self.compute | self.graphics
        return self.base_bytes + sum(held_bytes or 0 for held_bytes in holders.values())

    def state(self) -> Iterator[tuple[str, object]]:
        yield "used", self.used_bytes
        yield "total", self.total_bytes
        for name in _PLAIN_KEYS:
            yield name, getattr(self, name)
        yield "fail", self.fail
        yield "compute", _as_list(self.compute)
        yield "graphics", _as_list(self.graphics)


class FakeNvml:
    """The cards, and how NVML itself misbehaves. Changes take effect with `save()`."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, *, gpus: Sequence[FakeGpu] | None = None
    ) -> None:
        self.gpus = [FakeGpu()] if gpus is None else list(gpus)
        self.fail = 0
        """An nvmlReturn_t that every function answers with."""
        self.failing: dict[str, int] = {}
        """An nvmlReturn_t by C function."""
        self._state_file = folder / "nvml.state"
        self._library = _build()
        self.save()
        self._put_in_place(monkeypatch)

    @property
    def environment(self) -> dict[str, str]:
        """What a child needs to see these cards; `os.environ` has it already."""
        search = [str(self._library.parent), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
        return {"FAKE_NVML_STATE": str(self._state_file), "LD_LIBRARY_PATH": ":".join(search)}

    def save(self) -> None:
        """Let the cards be as they are described now, at once for everybody."""
        lines: list[tuple[str, object]] = [("gpus", len(self.gpus)), ("fail", self.fail)]
        lines += [(f"fail.{function}", code) for function, code in self.failing.items()]
        for index, gpu in enumerate(self.gpus):
            lines += [(f"{key}.{index}", value) for key, value in gpu.state()]
        part = self._state_file.with_suffix(".part")
        part.write_text("".join(f"{key}={value}\n" for key, value in lines))
        part.replace(self._state_file)

    def unsupported(self, *functions: str) -> None:
        """Let `functions`, C names as "nvmlDeviceGetPowerUsage", answer that they are not supported."""
        self.failing |= dict.fromkeys(functions, NOT_SUPPORTED)
        self.save()

    def _put_in_place(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(self._library)))
        monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})


def _as_list(holders: dict[int, int | None]) -> str:
    return ",".join(str(pid) if held is None else f"{pid}:{held}" for pid, held in holders.items())


@functools.cache
def _build() -> Path:
    """Compile the library once for all tests of this process.

    It has no soname, so that a later search for `libnvidia-ml.so.1` does not find it in memory.
    """
    folder = Path(tempfile.mkdtemp(prefix="fake-nvml-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    library = folder / _NAME
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, _SOURCE], check=True, timeout=60)
    return library

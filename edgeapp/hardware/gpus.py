"""Which NVIDIA GPUs there are now.

What NVML cannot say (no driver, no library, a card that fell off the bus) is a fact too, not an exception.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from edgeapp.cleantext import clean_line
from edgeapp.hardware import system_files
from edgeapp.hardware.system_files import first_line


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One NVIDIA GPU now. `index` is NVML's, which follows the PCI bus."""

    index: int
    name: str
    total_bytes: int
    free_bytes: int
    driver_version: str
    compute_capability: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class GpuReading:
    """The GPUs that answered, and one sentence for everything that did not."""

    gpus: tuple[Gpu, ...]
    problems: tuple[str, ...] = ()


def read_gpus() -> GpuReading:
    """Return every NVIDIA GPU that answers. No GPU and no driver is an empty reading without a problem."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        return GpuReading(gpus=(), problems=_silent_devices())
    except pynvml.NVMLError as problem:
        return GpuReading(gpus=(), problems=(f"The NVIDIA driver does not answer: {_reason(problem)}.",))
    try:
        return _read_all(pynvml)
    except pynvml.NVMLError as problem:
        return GpuReading(gpus=(), problems=(f"The NVIDIA driver does not answer: {_reason(problem)}.",))
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _read_all(nvml: Any) -> GpuReading:
    gpus, problems = [], []
    driver_version = _text(nvml.nvmlSystemGetDriverVersion())
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            gpus.append(_read_one(nvml, index, driver_version))
        except nvml.NVMLError as problem:  # lost, in reset, or not ours to read: the others still count
            problems.append(f"GPU {index} does not answer: {_reason(problem)}.")
    return GpuReading(gpus=tuple(gpus), problems=tuple(problems))


def _read_one(nvml: Any, index: int, driver_version: str) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Gpu(
        index=index,
        name=clean_line(_text(nvml.nvmlDeviceGetName(handle))),
        total_bytes=int(memory.total),
        free_bytes=int(memory.free),
        driver_version=driver_version,
        compute_capability=(int(major), int(minor)),
    )


_LIB_RM_VERSION_MISMATCH = 18  # nvmlReturn_t in nvml.h


def _reason(problem: Any) -> str:
    if problem.value == _LIB_RM_VERSION_MISMATCH:
        return "it was updated while the old one is still loaded, which a reboot cures"
    return str(problem).removesuffix(".")


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


_NVIDIA_VENDOR = "0x10de"
_DISPLAY_CLASS = "0x03"  # PCI base class 03: VGA and 3D controllers


def _silent_devices() -> tuple[str, ...]:
    """Say so when the PCI bus holds an NVIDIA card that no driver speaks for."""
    for device in (system_files.SYS / "bus/pci/devices").glob("*"):
        vendor, kind = first_line(device / "vendor"), first_line(device / "class")
        if vendor == _NVIDIA_VENDOR and kind.startswith(_DISPLAY_CLASS):
            return ("There is an NVIDIA GPU on the PCI bus, but its driver is not loaded.",)
    return ()

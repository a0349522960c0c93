"""How fast this machine was measured to be, for as long as it is the same machine with the same engine."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import msgspec

from edgeapp.profiles import kept_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgeapp.hardware import Gpu, Host
    from edgeapp.placement.machine import DeviceFacts, HostFacts, Machine

_VERSION = 1
"""Of the meaning of the fields; another one is measured again."""
_RAM_STEP_BYTES = 1 << 30
"""Kernels reserve some megabytes more or less of the same memory."""


class MachineKey(msgspec.Struct, frozen=True, kw_only=True):
    """What the speeds depend on. A machine that differs in any of it is measured again."""

    cpu_model: str
    physical_cores: int
    logical_cores: int
    ram_gib: int
    device: str
    """Name and driver of the GPU; empty is none."""
    binding_version: str

    @property
    def digest(self) -> str:
        """A short text for file names that differs when anything differs."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:16]


class Speeds(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes and floating-point operations per second; 0 is not measured. As `MachineMeasured`."""

    ram_read_bps: float
    host_flops: float
    n_threads_best: int
    device_read_bps: float = 0.0
    device_flops: float = 0.0
    pinned_bps: float = 0.0
    pageable_bps: float = 0.0
    sync_s: float = 0.0


class MachineProfile(msgspec.Struct, frozen=True, kw_only=True):
    """The speeds of the machine that `key` describes."""

    key: MachineKey
    speeds: Speeds
    measured_at_s: float
    """Unix time."""
    assumed_ram_read_bps: float = 0.0
    """What was assumed before; memory that is far slower has a reason."""
    is_crowded: bool = False
    """Other programs took CPU time meanwhile: good enough until it can be measured again."""
    version: int = _VERSION


def machine_key(host: Host, gpus: Sequence[Gpu], *, device: str = "") -> MachineKey:
    """Return the key of this machine. `device` is ggml's name and description where NVML knows no GPU."""
    named = [f"{gpu.name}, driver {gpu.driver_version}" for gpu in gpus]
    return MachineKey(
        cpu_model=host.cpu_model,
        physical_cores=host.physical_cores,
        logical_cores=host.logical_cores,
        ram_gib=round(host.total_ram_bytes / _RAM_STEP_BYTES),
        device="; ".join(named) or device,
        binding_version=_binding_version(),
    )


def read_profile(key: MachineKey) -> MachineProfile | None:
    """Return what was measured on this very machine; None asks for a measurement.

    A damaged file is None with a warning in the log.
    """
    profile = kept_file.read(_file(key), MachineProfile)
    if profile is None or profile.key != key or profile.version != _VERSION:
        return None
    return profile


def write_profile(profile: MachineProfile) -> None:
    """Keep `profile`. Raise `OSError`."""
    kept_file.write(_file(profile.key), profile)


def measured_machine(assumed: Machine, profile: MachineProfile) -> Machine:
    """Return `assumed` with the speeds that were measured; its memory is of this moment and stays."""
    host, speeds = assumed.host, profile.speeds
    measured_host: HostFacts = replace(
        host,
        n_threads=speeds.n_threads_best or host.n_threads,
        ram_read_bps=speeds.ram_read_bps or host.ram_read_bps,
        compute_flops=speeds.host_flops or host.compute_flops,
    )
    device = None if assumed.device is None else _measured_device(assumed.device, speeds)
    return replace(assumed, host=measured_host, device=device, is_measured=True)


def _measured_device(device: DeviceFacts, speeds: Speeds) -> DeviceFacts:
    return replace(
        device,
        read_bps=speeds.device_read_bps or device.read_bps,
        compute_flops=speeds.device_flops or device.compute_flops,
        pinned_bps=speeds.pinned_bps or device.pinned_bps,
        pageable_bps=speeds.pageable_bps or device.pageable_bps,
        sync_s=speeds.sync_s or device.sync_s,
    )


def _file(key: MachineKey) -> Path:
    return kept_file.folder() / f"machine-{key.digest}.json"


def _binding_version() -> str:
    try:
        return version("llama-cpp-python")
    except PackageNotFoundError:
        return ""

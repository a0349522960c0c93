"""Measured speeds are kept for the same machine with the same engine, and only for that."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from edgeapp import paths
from edgeapp.hardware import Gpu, Host
from edgeapp.placement.machine import DeviceFacts, HostFacts, Machine
from edgeapp.profiles import machine_profile
from edgeapp.profiles.machine_profile import (
    MachineKey,
    MachineProfile,
    Speeds,
    machine_key,
    measured_machine,
    read_profile,
    write_profile,
)

if TYPE_CHECKING:
    from pathlib import Path

_GIB = 1024**3
HOST = Host(
    total_ram_bytes=32 * _GIB,
    available_ram_bytes=20 * _GIB,
    total_swap_bytes=0,
    free_swap_bytes=0,
    cpu_model="a CPU",
    physical_cores=8,
    logical_cores=16,
)
GPU = Gpu(
    index=0,
    name="RTX 4090",
    total_bytes=24 * _GIB,
    free_bytes=23 * _GIB,
    driver_version="580.65.06",
    compute_capability=(8, 9),
)
SPEEDS = Speeds(
    ram_read_bps=40e9,
    host_flops=1e12,
    n_threads_best=6,
    device_read_bps=900e9,
    device_flops=80e12,
    pinned_bps=24e9,
    pageable_bps=9e9,
    sync_s=5e-5,
)


def a_profile(key: MachineKey) -> MachineProfile:
    return MachineProfile(key=key, speeds=SPEEDS, measured_at_s=1.0, assumed_ram_read_bps=44e9)


def profile_files() -> list[Path]:
    return list((paths.cache_dir() / "profiles").glob("machine-*.json"))


def test_what_was_measured_comes_back() -> None:
    key = machine_key(HOST, (GPU,))
    assert read_profile(key) is None
    write_profile(a_profile(key))
    assert read_profile(key) == a_profile(key)


@pytest.mark.parametrize(
    "changed",
    [
        {"cpu_model": "another CPU"},
        {"physical_cores": 4},
        {"logical_cores": 8},
        {"total_ram_bytes": 64 * _GIB},
    ],
)
def test_another_host_is_measured_again(changed: dict[str, Any]) -> None:
    write_profile(a_profile(machine_key(HOST, (GPU,))))
    assert read_profile(machine_key(replace(HOST, **changed), (GPU,))) is None


@pytest.mark.parametrize("changed", [{"name": "RTX 3060"}, {"driver_version": "590.1"}])
def test_another_gpu_or_driver_is_measured_again(changed: dict[str, Any]) -> None:
    write_profile(a_profile(machine_key(HOST, (GPU,))))
    assert read_profile(machine_key(HOST, (replace(GPU, **changed),))) is None
    assert read_profile(machine_key(HOST, ())) is None


def test_another_version_of_the_engine_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    write_profile(a_profile(machine_key(HOST, ())))
    monkeypatch.setattr(machine_profile, "version", lambda name: "9.9.9")
    assert read_profile(machine_key(HOST, ())) is None


def test_free_memory_and_a_few_reserved_megabytes_do_not_matter() -> None:
    write_profile(a_profile(machine_key(HOST, (GPU,))))
    busy = replace(HOST, available_ram_bytes=_GIB, total_ram_bytes=32 * _GIB - (90 << 20))
    assert read_profile(machine_key(busy, (replace(GPU, free_bytes=0),))) is not None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"speeds": 1}', b"\xff\xfe"])
def test_a_damaged_profile_is_left_out_with_a_warning(
    content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    key = machine_key(HOST, ())
    write_profile(a_profile(key))
    (file,) = profile_files()
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert read_profile(key) is None
    assert "cannot be read" in caplog.text
    write_profile(a_profile(key))
    assert read_profile(key) is not None


def test_a_profile_of_another_version_or_another_machine_is_not_believed() -> None:
    key = machine_key(HOST, ())
    write_profile(a_profile(key))
    (file,) = profile_files()
    for other in (
        msgspec.structs.replace(a_profile(key), version=99),
        a_profile(msgspec.structs.replace(key, cpu_model="moved disk")),
    ):
        file.write_bytes(msgspec.json.encode(other))
        assert read_profile(key) is None


ASSUMED = Machine(
    host=HostFacts(
        total_ram_bytes=32 * _GIB,
        available_ram_bytes=20 * _GIB,
        n_threads=8,
        ram_read_bps=44e9,
        compute_flops=5e11,
    ),
    device=DeviceFacts(
        name="CUDA0",
        description="RTX 4090",
        total_bytes=24 * _GIB,
        free_bytes=23 * _GIB,
        read_bps=1e12,
        compute_flops=1e14,
        pinned_bps=25e9,
        pageable_bps=10e9,
        sync_s=1e-4,
        can_offload=True,
    ),
    is_measured=False,
)


def test_measured_speeds_replace_assumed_ones_and_memory_stays() -> None:
    machine = measured_machine(ASSUMED, a_profile(machine_key(HOST, (GPU,))))
    assert machine.is_measured
    assert (machine.host.ram_read_bps, machine.host.compute_flops, machine.host.n_threads) == (40e9, 1e12, 6)
    assert machine.host.available_ram_bytes == ASSUMED.host.available_ram_bytes
    assert machine.device is not None
    assert (machine.device.read_bps, machine.device.pinned_bps, machine.device.sync_s) == (900e9, 24e9, 5e-5)
    assert (machine.device.free_bytes, machine.device.can_offload) == (23 * _GIB, True)


def test_a_speed_that_was_not_measured_stays_assumed() -> None:
    only_ram = Speeds(ram_read_bps=40e9, host_flops=0.0, n_threads_best=0)
    profile = msgspec.structs.replace(a_profile(machine_key(HOST, ())), speeds=only_ram)
    machine = measured_machine(ASSUMED, profile)
    assert (machine.host.ram_read_bps, machine.host.compute_flops, machine.host.n_threads) == (40e9, 5e11, 8)
    assert machine.device == ASSUMED.device


def test_a_machine_without_a_gpu_gets_none_from_a_profile() -> None:
    profile = a_profile(machine_key(HOST, ()))
    assert measured_machine(replace(ASSUMED, device=None), profile).device is None

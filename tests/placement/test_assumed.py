from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgeapp.hardware import Gpu, Host
from edgeapp.placement.assumed import RAM_READ_BPS, READ_SHARE, assumed_device, assumed_machine
from tests.placement.made import GIB, made_device

if TYPE_CHECKING:
    from edgeapp.placement.machine import DeviceFacts


def host(cores: int) -> Host:
    return Host(
        total_ram_bytes=32 * GIB,
        available_ram_bytes=28 * GIB,
        total_swap_bytes=0,
        free_swap_bytes=0,
        cpu_model="test",
        physical_cores=cores,
        logical_cores=2 * cores,
    )


def card(description: str, capability: tuple[int, int] = (0, 0)) -> DeviceFacts:
    return assumed_device(
        name="CUDA0",
        description=description,
        total_bytes=8 * GIB,
        free_bytes=7 * GIB,
        compute_capability=capability,
    )


@pytest.mark.parametrize(
    ("description", "gbps"),
    [
        ("NVIDIA GeForce RTX 3060", 360),
        ("NVIDIA GeForce RTX 3060 Ti", 448),
        ("NVIDIA GeForce RTX 3060 Laptop GPU", 336),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", 672),
        ("NVIDIA GeForce RTX 5090", 1792),
        ("NVIDIA GeForce RTX 5070 Ti Laptop GPU", 672),
        ("NVIDIA H100 80GB HBM3", 2000),
    ],
)
def test_the_longest_name_counts(description: str, gbps: float) -> None:
    assert card(description).read_bps == pytest.approx(gbps * 1e9 * READ_SHARE)


def test_an_unknown_card_counts_as_the_slowest_of_its_generation() -> None:
    new, unknown = card("NVIDIA GeForce RTX 9090", (12, 0)), card("GPU of the future")
    assert new.read_bps > unknown.read_bps > 0
    assert card("NVIDIA GeForce RTX 3090 Laptop GPU", (8, 6)).read_bps < card("RTX 3090").read_bps


def test_a_machine_is_put_together_from_what_is_known() -> None:
    gpu = Gpu(
        index=0,
        name="X",
        total_bytes=8 * GIB,
        free_bytes=7 * GIB,
        driver_version="1",
        compute_capability=(8, 9),
    )
    device = made_device(8 * GIB)
    machine = assumed_machine(host(8), device, gpu)
    assert machine.device is not None
    assert (machine.device.name, machine.device.can_offload) == ("CUDA0", True)
    assert (machine.host.n_threads, machine.host.ram_read_bps) == (8, RAM_READ_BPS)
    assert not machine.is_measured
    assert assumed_machine(host(1), None).host.ram_read_bps < RAM_READ_BPS
    assert assumed_machine(host(1), None).device is None


def test_a_device_of_another_process_computes_only_what_it_holds() -> None:
    remote = assumed_device(name="RPC0[127.0.0.1:50052]", description="RPC0", total_bytes=GIB, free_bytes=GIB)
    machine = assumed_machine(host(2), remote)
    assert machine.device is not None
    assert not machine.device.can_offload

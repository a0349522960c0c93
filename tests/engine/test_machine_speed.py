"""The machine is measured with ggml's own kernels, on the CPU and on a device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgeapp.engine import bindings, machine_speed
from edgeapp.engine.bindings import products
from edgeapp.engine.bindings.products import Matrices
from edgeapp.errors import NotEnoughMemory, UsageError
from edgeapp.protocol import MeasureMachine
from edgeapp.runtime.probing import measure_machine

if TYPE_CHECKING:
    from tests.fake_gpu import FakeGpu

MIB = 1024**2


async def test_everything_that_exists_is_measured(fake_gpu: FakeGpu) -> None:
    fake_gpu.set_free(300)
    measured = await measure_machine(1, fake_gpu.name)
    assert measured.n_threads_best == 1
    assert min(measured.ram_read_bps, measured.device_read_bps) > 100 * MIB
    assert min(measured.host_flops, measured.device_flops) > 1e8
    assert measured.pageable_bps > 1 * MIB
    assert 0 < measured.sync_s < 1
    assert measured.pinned_bps == 0  # RPC has no page-locked memory
    assert fake_gpu.used_bytes() == 0


async def test_a_gpu_that_is_full_cannot_be_measured(fake_gpu: FakeGpu) -> None:
    fake_gpu.set_free(200)
    with pytest.raises(NotEnoughMemory, match="252 MiB of free memory, 200 MiB are free"):
        await measure_machine(1, fake_gpu.name)


def test_an_unknown_gpu_is_an_error() -> None:
    bindings.start()
    with pytest.raises(UsageError, match="CUDA7"):
        machine_speed.measure(MeasureMachine(n_threads=1, device="CUDA7"))


@pytest.mark.parametrize("repacked", [False, True])
def test_both_layouts_multiply_all_matrices(repacked: bool) -> None:  # noqa: FBT001 - a parameter
    bindings.start()
    matrices = Matrices(n=3, n_in=512, n_out=256, n_columns=4)
    assert matrices.weights_bytes == 3 * 512 * 256 * 144 // 256
    assert matrices.n_flops == 3 * 2 * 512 * 256 * 4
    with (
        products.open_backend(bindings.cpu_handle()) as cpu,
        products.open_product(cpu, matrices, repacked=repacked) as product,
    ):
        product.compute()


def test_numbers_of_threads_double_up_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_speed, "_WEIGHTS_BYTES", 64 * MIB)
    monkeypatch.setattr(machine_speed, "_RUNS_S", 0)
    bindings.start()
    with products.open_backend(bindings.cpu_handle()) as cpu:
        readings = machine_speed._readings(cpu, 3, is_repacked=True)
    assert list(readings) == [1, 2, 3]
    assert min(readings.values()) > 100 * MIB


def test_fewer_threads_win_when_more_read_no_faster() -> None:
    assert machine_speed._fewest({1: 10e9, 2: 19.8e9, 4: 20e9, 8: 15e9}) == 2
    assert machine_speed._fewest({1: 10e9, 2: 15e9, 4: 20e9}) == 4


def test_what_is_read_is_a_part_of_the_free_memory() -> None:
    assert machine_speed._reading(64 * 1024 * MIB).weights_bytes <= 512 * MIB
    assert machine_speed._reading(1024 * MIB).weights_bytes <= 256 * MIB

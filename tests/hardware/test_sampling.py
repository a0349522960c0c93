from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pynvml
import pytest

from edgeapp.hardware import GpuSampler
from edgeapp.hardware.sampling import throttle_names
from tests.fake_nvml import DRIVER_NOT_LOADED, UNKNOWN, FakeGpu, FakeNvml

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_GIB = 1024**3
_NO_PROCESS = 2**22 + 1  # above the kernel's largest process id
_OPTIONAL = (
    "nvmlDeviceGetUtilizationRates",
    "nvmlDeviceGetTemperature",
    "nvmlDeviceGetPowerUsage",
    "nvmlDeviceGetEnforcedPowerLimit",
    "nvmlDeviceGetCurrPcieLinkGeneration",
    "nvmlDeviceGetMaxPcieLinkGeneration",
    "nvmlDeviceGetCurrPcieLinkWidth",
    "nvmlDeviceGetMaxPcieLinkWidth",
    "nvmlDeviceGetCurrentClocksEventReasons",
    "nvmlDeviceGetCurrentClocksThrottleReasons",
    "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlDeviceGetGraphicsRunningProcesses_v3",
)


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    return FakeNvml(tmp_path, monkeypatch)


@pytest.fixture
def clock() -> list[float]:
    return [0.0]


@pytest.fixture
def sampler(nvml: FakeNvml, clock: list[float]) -> Iterator[GpuSampler]:
    with GpuSampler(clock=lambda: clock[0]) as sampler:
        yield sampler


def test_a_sample_says_what_is_free_and_who_holds_the_rest(nvml: FakeNvml, sampler: GpuSampler) -> None:
    nvml.gpus[0].compute = {os.getpid(): 2 * _GIB, _NO_PROCESS: _GIB}
    nvml.gpus[0].graphics = {os.getppid(): 3 * _GIB}
    nvml.save()

    (gpu,) = sampler.sample({os.getpid()})

    assert gpu.used_bytes == 6 * _GIB + (300 << 20)
    assert gpu.ours_bytes == 2 * _GIB
    assert [process.used_bytes for process in gpu.others] == [3 * _GIB, _GIB]
    assert gpu.others[1].name == f"process {_NO_PROCESS}"
    assert gpu.ours[0].name


def test_a_program_that_draws_and_computes_is_counted_once(nvml: FakeNvml, sampler: GpuSampler) -> None:
    nvml.gpus[0].compute = {os.getpid(): _GIB}
    nvml.gpus[0].graphics = {os.getpid(): _GIB}
    nvml.save()

    (gpu,) = sampler.sample()

    assert [process.used_bytes for process in gpu.others] == [_GIB]


def test_load_heat_power_and_pcie_are_read(nvml: FakeNvml, sampler: GpuSampler) -> None:
    nvml.gpus[0].pcie_width = 4
    nvml.gpus[0].clocks_event_reasons = (
        pynvml.nvmlClocksEventReasonSwPowerCap | pynvml.nvmlClocksEventReasonHwThermalSlowdown
    )
    nvml.save()

    (gpu,) = sampler.sample()

    assert (gpu.utilisation_percent, gpu.memory_utilisation_percent) == (17, 9)
    assert (gpu.temperature_c, gpu.power_w, gpu.power_limit_w) == (55, 42.0, 115.0)
    assert (gpu.pcie_generation, gpu.pcie_max_generation, gpu.pcie_width, gpu.pcie_max_width) == (4, 4, 4, 8)
    assert gpu.throttles == ("power cap", "thermal")


def test_an_idle_gpu_is_not_held_down() -> None:
    assert throttle_names(pynvml.nvmlClocksEventReasonGpuIdle) == ()


def test_what_a_card_does_not_support_is_none(nvml: FakeNvml, sampler: GpuSampler) -> None:
    nvml.unsupported(*_OPTIONAL)

    (gpu,) = sampler.sample({os.getpid()})

    assert gpu.total_bytes == 8 * _GIB
    assert not gpu.lost
    assert gpu.ours_bytes is gpu.utilisation_percent is gpu.temperature_c is gpu.power_w is None
    assert gpu.pcie_width is None
    assert gpu.throttles is None
    assert gpu.others == ()


def test_a_process_whose_memory_is_not_told_is_still_named(nvml: FakeNvml, sampler: GpuSampler) -> None:
    nvml.gpus[0].compute = {os.getpid(): None}
    nvml.save()

    (gpu,) = sampler.sample({os.getpid()})

    assert gpu.ours[0].used_bytes is None
    assert gpu.ours_bytes is None


def test_a_card_that_falls_off_the_bus_is_lost_and_the_other_is_not(
    nvml: FakeNvml, sampler: GpuSampler
) -> None:
    nvml.gpus.append(FakeGpu(name="NVIDIA GeForce RTX 3090", total_bytes=24 * _GIB))
    nvml.save()
    sampler.sample()

    nvml.gpus[1].lose()
    nvml.save()
    first, second = sampler.sample()

    assert not first.lost
    assert second.lost
    assert (second.name, second.total_bytes, second.free_bytes) == ("NVIDIA GeForce RTX 3090", 24 * _GIB, 0)


def test_a_card_that_comes_back_is_not_lost_any_more(nvml: FakeNvml, sampler: GpuSampler) -> None:
    nvml.gpus[0].lose()
    nvml.save()
    assert sampler.sample()[0].lost

    nvml.gpus[0].fail = 0
    nvml.save()

    assert not sampler.sample()[0].lost
    assert sampler.sample()[0].name == "NVIDIA GeForce RTX 4060"


@pytest.mark.parametrize("code", [DRIVER_NOT_LOADED, UNKNOWN])
def test_a_driver_that_goes_away_loses_every_card_until_it_is_back(
    nvml: FakeNvml, sampler: GpuSampler, clock: list[float], code: int
) -> None:
    sampler.sample()

    nvml.fail = code
    nvml.save()
    assert [gpu.lost for gpu in sampler.sample()] == [True]

    nvml.fail = 0
    nvml.save()
    assert [gpu.lost for gpu in sampler.sample()] == [True], "not asked again at once"
    clock[0] += 10
    assert [gpu.lost for gpu in sampler.sample()] == [False]


def test_a_call_that_fails_for_a_moment_does_not_lose_the_card(nvml: FakeNvml, sampler: GpuSampler) -> None:
    (before,) = sampler.sample()
    nvml.failing = {"nvmlDeviceGetMemoryInfo": pynvml.NVML_ERROR_TIMEOUT}
    nvml.save()

    assert sampler.sample() == (before,)


def test_a_sampler_without_a_driver_has_nothing_to_say(nvml: FakeNvml, sampler: GpuSampler) -> None:
    nvml.fail = DRIVER_NOT_LOADED
    nvml.save()

    assert sampler.sample() == ()


def test_vram_theft_shows_in_the_next_sample(nvml: FakeNvml, sampler: GpuSampler) -> None:
    (before,) = sampler.sample()
    nvml.gpus[0].compute[_NO_PROCESS] = 5 * _GIB
    nvml.save()

    (after,) = sampler.sample()

    assert before.free_bytes - after.free_bytes == 5 * _GIB
    assert after.others[0].used_bytes == 5 * _GIB

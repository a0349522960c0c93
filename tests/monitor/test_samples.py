from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from edgeapp.monitor.samples import MemorySampler, merge_devices, watch
from edgeapp.protocol import Device
from tests.fake_nvml import FakeNvml
from tests.monitor.memory_samples import CARD, GIB, a_gpu

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

_RPC = Device(
    name="RPC0[127.0.0.1:50052]", description="fake", kind="gpu", free_bytes=3 * GIB, total_bytes=4 * GIB
)


def test_a_sample_of_this_machine_is_consistent() -> None:
    with MemorySampler() as sampler:
        sample = sampler.sample({os.getpid()})

    assert 0 < sample.ram.used_bytes < sample.ram.total_bytes
    assert sample.ram.ours_bytes > 1 << 20
    assert sample.ram.mapped_bytes > 0
    assert sample.ram.used_swap_bytes <= sample.ram.total_swap_bytes


def test_nvmls_cards_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml(tmp_path, monkeypatch)
    nvml.gpus[0].compute = {os.getpid(): GIB}
    nvml.save()

    with MemorySampler() as sampler:
        (device,) = sampler.sample({os.getpid()}).devices
        nvml.gpus[0].lose()
        nvml.save()
        (lost,) = sampler.sample({os.getpid()}).devices

    assert (device.name, device.description) == ("GPU 0", CARD)
    assert device.used_bytes == GIB + (300 << 20)
    assert device.gpu is not None
    assert device.gpu.ours_bytes == GIB
    assert lost.lost


def test_a_device_that_only_the_engine_knows_is_among_them_once() -> None:
    cpu = Device(name="CPU", description="a CPU", kind="cpu", free_bytes=1, total_bytes=2)

    devices = merge_devices([], [cpu, _RPC, _RPC])

    assert [(device.name, device.used_bytes) for device in devices] == [(_RPC.name, GIB)]


def test_a_card_that_nvml_and_the_engine_know_is_shown_once() -> None:
    cuda = Device(name="CUDA0", description=CARD, kind="gpu", free_bytes=GIB, total_bytes=8 * GIB)
    renamed = Device(name="CUDA1", description="another name", kind="gpu", free_bytes=1, total_bytes=2)

    assert [device.name for device in merge_devices([a_gpu()], [cuda, renamed])] == ["GPU 0"]


def test_a_device_name_cannot_carry_escape_sequences() -> None:
    hostile = Device(name="RPC\x1b[2J", description="\x07", kind="gpu", free_bytes=1, total_bytes=2)

    assert "\x1b" not in merge_devices([], [hostile])[0].name


async def test_watching_yields_one_sample_after_the_other() -> None:
    with MemorySampler() as sampler:
        seen = []
        async for sample in watch(sampler.sample, 0.001):
            seen.append(sample.time_s)
            if len(seen) == 3:
                break

    assert seen == sorted(seen)
    assert seen[-1] <= time.monotonic()

"""The stand-in for a GPU behaves like one: it has so much memory, shares it, hangs and dies."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from edgeapp.runtime.probing import list_devices
from tests.fake_gpu import MIB, FakeGpu, fake_gpu
from tests.runtime.engines import real_engine

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


async def free_mib() -> list[int]:
    return [device.free_bytes // MIB for device in await list_devices() if device.kind == "gpu"]


async def test_two_devices_have_memory_of_their_own_that_other_programs_can_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with fake_gpu(total_mib=[512, 256]) as gpu:
        monkeypatch.setenv("EDGEAPP_RPC_SERVERS", gpu.endpoint)
        assert gpu.names == ("RPC0", "RPC1")
        assert await free_mib() == [512, 256]
        gpu.take(100, device=1)
        gpu.set_free(64)
        assert await free_mib() == [64, 156]
        gpu.pause()
        assert await free_mib() == []
        gpu.resume()
        gpu.kill()
        assert await free_mib() == []
        gpu.restart()
        assert await free_mib() == [64, 156]


async def test_two_engines_share_a_device_and_give_back_what_they_had(
    fake_gpu: FakeGpu, tiny_moe: Path
) -> None:
    one = real_engine(tiny_moe, device=fake_gpu.name, n_gpu_layers=999)
    other = real_engine(tiny_moe, device=fake_gpu.name, n_gpu_layers=999)
    async with one as first, other as second:
        await first.load()
        alone_bytes = fake_gpu.used_bytes()
        await second.load()
        assert fake_gpu.used_bytes() == 2 * alone_bytes > 0
    async with asyncio.timeout(10):
        while fake_gpu.used_bytes():
            await asyncio.sleep(0.01)

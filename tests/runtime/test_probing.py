"""A question to a worker of its own ends in an answer or a clear error, and the worker with it."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from edgeapp.errors import EngineCrashed, EngineHung
from edgeapp.protocol import Probe, Probed, ProbeShape
from edgeapp.runtime import probing

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fake_gpu import FakeGpu

ON_GPU = ProbeShape(n_ctx=256, n_ubatch=256, device="RPC0", n_gpu_layers=999)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_devices_and_buffers_come_from_one_worker(fake_gpu: FakeGpu, tiny_moe: Path) -> None:
    devices, (uses,) = await probing.probe(tiny_moe, [ON_GPU], n_threads=1)
    assert [device.name for device in devices] == ["CPU", "RPC0"]
    assert [use.device for use in uses] == ["CPU", "RPC0"]


async def test_a_gpu_that_hangs_while_it_is_asked_is_an_error(fake_gpu: FakeGpu, tiny_moe: Path) -> None:
    request = Probe(path=str(tiny_moe), n_threads=1, shapes=(ON_GPU,))
    async with probing._worker() as worker:
        fake_gpu.pause()
        with pytest.raises(EngineHung, match=r"did not answer within 0\.5 s") as caught:
            await probing._ask(worker, request, Probed, timeout_s=0.5)
    assert "RPC server" in caught.value.hint
    assert not is_alive(worker.pid)


async def test_a_worker_that_dies_while_it_is_asked_is_an_error(fake_gpu: FakeGpu, tiny_moe: Path) -> None:
    request = Probe(path=str(tiny_moe), n_threads=1, shapes=(ON_GPU,))
    async with probing._worker() as worker:
        fake_gpu.pause()
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(EngineCrashed):
            await probing._ask(worker, request, Probed, timeout_s=20)

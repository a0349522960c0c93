from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING

from edgeapp.monitor.overview import Overlook
from edgeapp.monitor.running import RunningEngine
from edgeapp.protocol import BufferUse, Device, Loaded, Memory
from tests.fake_nvml import FakeNvml

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

_GIB = 1024**3


def loaded(device: str) -> Loaded:
    buffers = (BufferUse(device=device, weights_bytes=2 * _GIB, kv_bytes=_GIB, compute_bytes=0),)
    return Loaded(
        n_ctx=1,
        n_ctx_train=1,
        n_vocab=1,
        n_threads=1,
        template="gguf",
        load_s=0,
        model_desc="",
        buffers=buffers,
    )


async def test_the_memory_of_an_engine_is_that_of_its_front_ends_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml = FakeNvml(tmp_path, monkeypatch)
    worker = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    nvml.gpus[0].compute = {worker.pid: 4 * _GIB}
    nvml.save()
    engine = RunningEngine(front_end="chat", model="demo")
    engine.observe(loaded("CUDA0"))
    await asyncio.sleep(0.05)

    with Overlook() as overlook:
        overview = overlook.look()
    engine.close()
    worker.communicate()

    (device,) = overview.sample.devices
    sizes = {part.kind: part.size_bytes for part in overview.parts_of(device)}
    assert (sizes["weights"], sizes["kv"], sizes["runtime"]) == (2 * _GIB, _GIB, _GIB)
    assert "other" not in sizes


async def test_a_gpu_that_only_an_engine_knows_is_seen_through_its_file() -> None:
    engine = RunningEngine(front_end="chat", model="demo")
    name = "RPC0[127.0.0.1:50052]"
    engine.observe(loaded(name))
    gpu = Device(name=name, description="fake", kind="gpu", free_bytes=_GIB, total_bytes=4 * _GIB)
    engine.observe(Memory(rss_bytes=1, devices=(gpu,)))
    await asyncio.sleep(0.05)

    with Overlook() as overlook:
        overview = overlook.look()
    engine.close()

    device = next(device for device in overview.sample.devices if device.name == name)
    assert [part.kind for part in overview.parts_of(device)] == ["weights", "kv", "free"]

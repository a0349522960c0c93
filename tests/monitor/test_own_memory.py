from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from edgeapp.monitor.own_memory import OwnMemory
from edgeapp.protocol import Device, Memory
from tests.fake_nvml import FakeNvml

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

_GIB = 1024**3


def test_what_children_hold_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml(tmp_path, monkeypatch)
    worker = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    nvml.gpus[0].compute = {worker.pid: 4 * _GIB, 1: _GIB}
    nvml.save()
    memory = OwnMemory()

    (device,) = memory.look().devices
    memory.close()
    worker.communicate()

    assert device.gpu is not None
    assert device.gpu.ours_bytes == 4 * _GIB
    assert [other.pid for other in device.gpu.others] == [1]


def test_the_devices_that_the_engine_reports_are_sampled_from_then_on() -> None:
    gpu = Device(name="RPC0", description="fake", kind="gpu", free_bytes=_GIB, total_bytes=4 * _GIB)
    memory = OwnMemory()
    before = {device.name for device in memory.look().devices}

    memory.observe(Memory(rss_bytes=1, devices=(gpu,)))
    after = {device.name for device in memory.look().devices}
    memory.close()

    assert after - before == {"RPC0"}

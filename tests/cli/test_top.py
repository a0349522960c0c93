from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from edgeapp.cli.top import command
from tests.fake_nvml import FakeNvml

if TYPE_CHECKING:
    from click.testing import Result

_GIB = 1024**3


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    return FakeNvml(tmp_path, monkeypatch)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments), catch_exceptions=False)


def test_once_prints_every_memory_as_text(nvml: FakeNvml) -> None:
    done = invoke("--once")

    assert done.exit_code == 0
    assert "GPU 0  GeForce RTX 4060" in done.output
    assert "0.3 of 8.0 GiB" in done.output
    assert "RAM" in done.output
    assert "No engine is running" in done.output
    assert "\x1b" not in done.output


def test_a_pipe_gets_text_without_being_asked(nvml: FakeNvml) -> None:
    assert "GPU 0" in invoke().output


def test_json_is_one_object_with_bytes_whose_parts_add_up(nvml: FakeNvml) -> None:
    nvml.gpus[0].compute = {1: 2 * _GIB}
    nvml.save()

    record = json.loads(invoke("--json", "--once").output)

    (device,) = record["devices"]
    assert (device["name"], device["total_bytes"], device["lost"]) == ("GPU 0", 8 * _GIB, False)
    assert device["gpu"]["temperature_c"] == 55
    assert sum(part["size_bytes"] for part in device["parts"]) == 8 * _GIB
    assert 2 * _GIB in [part["size_bytes"] for part in device["parts"] if part["kind"] == "other"]
    assert sum(part["size_bytes"] for part in record["ram"]["parts"]) == record["ram"]["total_bytes"]
    assert record["engines"] == []


def test_a_lost_gpu_is_reported_as_lost(nvml: FakeNvml) -> None:
    nvml.gpus[0].lose()
    nvml.save()

    assert "lost" in invoke("--once").output
    assert json.loads(invoke("--json", "--once").output)["devices"][0]["lost"]


def test_json_without_once_goes_on_until_it_is_stopped() -> None:
    source = Path(__file__).parents[2]
    code = "from edgeapp.cli.top import command; command(['--json', '--interval', '0.2'])"
    with subprocess.Popen([sys.executable, "-c", code], cwd=source, stdout=subprocess.PIPE) as watching:
        assert watching.stdout is not None
        first, second = (json.loads(watching.stdout.readline()) for _ in range(2))
        watching.kill()

    assert second["time_s"] > first["time_s"]


def test_an_interval_below_the_least_is_refused() -> None:
    done = CliRunner().invoke(command, ["--interval", "0.01"])

    assert done.exit_code == 2
    assert "0.2<=x" in done.output

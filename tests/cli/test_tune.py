"""`edgeapp tune` for people and for programs. What is fast is not asserted, only what is said and kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from edgeapp import paths
from edgeapp.gguf_info import read_gguf_info
from edgeapp.hardware import read_host
from edgeapp.placement.wishes import WORKLOADS
from edgeapp.profiles.machine_profile import MachineProfile, Speeds, machine_key, read_profile, write_profile
from edgeapp.profiles.predictions import last_records
from edgeapp.profiles.tuned import read_tuned
from tests.cli.processes import COMMAND, PATIENCE_S, assert_gone, edgeapp, wait_for, workers_of
from tests.fake_gpu import fake_gpu

if TYPE_CHECKING:
    from pathlib import Path

    from edgeapp.profiles.machine_profile import MachineKey

SHORT = ("--minutes", "0.02")


@pytest.fixture
def measured_machine() -> MachineKey:
    """Without a GPU. Spare a test the seconds that measuring takes."""
    key = machine_key(read_host(), ())
    speeds = Speeds(ram_read_bps=9e9, host_flops=8e10, n_threads_best=1)
    write_profile(MachineProfile(key=key, speeds=speeds, measured_at_s=1.0, assumed_ram_read_bps=2e10))
    return key


def test_a_damaged_profile_is_left_out_with_a_warning_and_the_machine_is_measured_again(
    measured_machine: MachineKey,
) -> None:
    (file,) = (paths.cache_dir() / "profiles").glob("machine-*.json")
    file.write_text('{"speeds": {"ram_read_bps": "fast"}}')
    done = edgeapp("tune", "--machine-only", "--gpu", "off", "--json")
    assert done.returncode == 0, done.stderr
    assert "cannot be read" in done.stderr
    assert "Measuring memory" in done.stderr
    facts = json.loads(done.stdout)
    assert facts["ram_read_bps"] > 1e8
    assert facts["host_flops"] > 1e8
    assert facts["is_crowded"] or facts["n_threads_best"] >= 1
    assert facts["device_read_bps"] == 0
    profile = read_profile(measured_machine)
    assert profile is not None
    assert profile.speeds.ram_read_bps == facts["ram_read_bps"]


def test_programs_get_every_try_as_json(tiny_moe: Path, measured_machine: MachineKey) -> None:
    done = edgeapp("tune", tiny_moe, "--minutes", "0.1", "--for", "kiosk", "--gpu", "off", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["model"] == str(tiny_moe)
    assert facts["workload"] == {"n_prompt": 1024, "n_answer": 128}
    assert facts["machine"]["ram_read_bps"] == 9e9
    first = facts["trials"][0]
    assert first["name"] == "as planned"
    for rates in (first["predicted"], first["actual"]):
        assert min(rates["decode_tps"], rates["prefill_tps"], rates["request_s"]) > 0
    assert facts["best"] in [trial["name"] for trial in facts["trials"]]
    assert facts["speed_up"] >= 1
    assert facts["ended"] in {"done", "time"}
    assert "Measuring memory" not in done.stderr
    kept = read_tuned(read_gguf_info(tiny_moe), WORKLOADS["kiosk"], 0, measured_machine)
    assert (kept is not None) is facts["is_kept"]
    assert facts["is_kept"] is False or facts["best"] != "as planned"
    assert {entry.source for entry in last_records()} == {"tune"}


def test_people_get_a_table_of_predicted_against_actual(tiny_moe: Path, measured_machine: MachineKey) -> None:
    done = edgeapp("tune", tiny_moe, *SHORT, "--gpu", "off")
    assert done.returncode == 0, done.stderr
    assert "9.0 GB/s with 1 thread" in done.stdout
    assert "512 tokens read, 400 written" in done.stdout
    heading = next(line for line in done.stdout.splitlines() if line.startswith("try "))
    assert heading.split() == ["try", "decode", "predicted", "prefill", "predicted", "request", "predicted"]
    assert "as planned" in done.stdout
    assert "←" in done.stdout
    assert "Trying as planned" in done.stderr


def test_a_tuning_that_is_stopped_keeps_what_it_knows(
    tiny_moe: Path, measured_machine: MachineKey, tmp_path: Path
) -> None:
    errors = tmp_path / "stderr"
    command = [*COMMAND, "tune", str(tiny_moe), "--gpu", "off", "--json"]
    with (
        errors.open("wb") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr) as process,
    ):
        try:
            wait_for(lambda: errors.read_bytes().count(b"Trying") == 2, what=errors.read_text())
            workers = workers_of(process.pid)
            os.kill(process.pid, signal.SIGINT)
            stdout, _ = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert process.returncode == 130, errors.read_text()
    facts = json.loads(stdout)
    assert facts["ended"] == "interrupted"
    assert facts["trials"][0]["actual"]["decode_tps"] > 0
    assert_gone(workers)


def test_experts_on_a_gpu_are_part_of_what_is_tried(tiny_moe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_gpu(total_mib=700) as gpu:
        for name, value in gpu.environment.items():
            monkeypatch.setenv(name, value)
        done = edgeapp("tune", tiny_moe, *SHORT, "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["machine"]["device_read_bps"] > 0
    assert facts["trials"][0]["actual"]["decode_tps"] > 0


def test_a_machine_and_a_model_at_once_is_a_usage_error(tiny_moe: Path) -> None:
    done = edgeapp("tune", tiny_moe, "--machine-only", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["code"] == "usage"


def test_a_workload_that_does_not_exist_is_a_usage_error(tiny_moe: Path) -> None:
    done = edgeapp("tune", tiny_moe, "--for", "poems")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr

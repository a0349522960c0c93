from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import edgeapp

_SOURCE = Path(edgeapp.__file__).parents[1]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "EDGEAPP_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1",
        "TERM": "xterm-256color",
        "LANG": "C.UTF-8",
    }


def doctor(environment: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgeapp", "doctor", *options]
    return subprocess.run(
        command, cwd=_SOURCE, env=environment, capture_output=True, text=True, check=False, timeout=100
    )


def test_doctor_exits_0_and_prints_one_line_per_finding(environment: dict[str, str]) -> None:
    done = doctor(environment)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok    engine         llama-cpp-python" in done.stdout
    assert "\x1b" not in done.stdout
    assert "Traceback" not in done.stderr


def test_doctor_json_is_a_list_of_findings_with_four_keys(environment: dict[str, str]) -> None:
    findings = json.loads(doctor(environment, "--json").stdout)

    assert {tuple(finding) for finding in findings} == {("check", "level", "found", "fix")}
    checks = [finding["check"] for finding in findings]
    assert {"python", "engine", "gpu", "cuda toolkit", "ram", "disk", "colours", "hub"} <= set(checks)
    assert len(checks) == len(set(checks))


def test_doctor_exits_1_when_something_must_be_fixed(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file where the folder should be")

    done = doctor(environment, "--json")

    failed = {finding["check"] for finding in json.loads(done.stdout) if finding["level"] == "fail"}
    assert done.returncode == 1
    assert {"config folder", "models folder", "log folder"} <= failed


def test_doctor_creates_nothing(environment: dict[str, str], tmp_path: Path) -> None:
    doctor(environment)

    assert not (tmp_path / "home").exists()

"""Downloads against a real HTTP server, through the real huggingface_hub, in a process of their own.

huggingface_hub reads HF_ENDPOINT when it is imported, so every pull is `edgeapp models pull` in a subprocess.
"""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgeapp import store
from edgeapp.errors import DownloadError
from edgeapp.hub import download
from edgeapp.references import HubRef
from tests.hub_server import COMMIT, Hub, Repo, gguf_like, running_hub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPO = "acme/Tiny-GGUF"
FILE = "Tiny-Q4_K_M.gguf"
CONTENT = gguf_like(size_bytes=3_000_000)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        hub.repos[REPO] = Repo(files={FILE: CONTENT})
        yield hub


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    monkeypatch.setenv("EDGEAPP_HOME", str(folder))
    return folder


@pytest.fixture
def environment(hub: Hub, home: Path, tmp_path: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "PYTHONPATH") if name in os.environ}
    return kept | {"EDGEAPP_HOME": str(home), "HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.url}


def edgeapp(
    environment: dict[str, str], *arguments: str, preexec: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgeapp", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=preexec,
    )


def pull(environment: dict[str, str], reference: str = f"hf:{REPO}") -> subprocess.CompletedProcess[str]:
    return edgeapp(environment, "models", "pull", reference)


def partials(home: Path) -> list[Path]:
    return list((home / "models" / ".partial").glob("*.part"))


def test_a_pull_places_the_verified_file_read_only_with_its_manifest(
    hub: Hub, environment: dict[str, str], home: Path
) -> None:
    result = pull(environment)
    assert result.returncode == 0, result.stderr
    (model,) = store.installed()
    assert model.path.read_bytes() == CONTENT
    assert stat.S_IMODE(model.path.stat().st_mode) == 0o444
    assert model.manifest.repo == REPO
    assert model.manifest.quant == "Q4_K_M"
    assert model.manifest.commit == COMMIT
    assert model.manifest.licence == "apache-2.0"
    assert model.manifest.files[0].sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert partials(home) == []
    assert result.stdout.splitlines()[-1] == str(model.path)
    assert all("telemetry" not in agent for agent in hub.agents)


def test_progress_without_a_terminal_is_plain_lines_up_to_the_end(environment: dict[str, str]) -> None:
    lines = pull(environment).stderr.splitlines()
    assert any(line.startswith("Downloading") and "100 %" in line for line in lines)
    assert any(line.startswith("Verifying") and "100 %" in line for line in lines)
    assert "\x1b" not in "".join(lines)


def test_a_second_pull_downloads_nothing(hub: Hub, environment: dict[str, str]) -> None:
    pull(environment)
    hub.ranges.clear()
    assert pull(environment).returncode == 0
    assert hub.ranges == []


def test_a_pull_brings_back_a_file_that_was_deleted_by_hand(environment: dict[str, str]) -> None:
    pull(environment)
    store.installed()[0].path.unlink()
    assert pull(environment).returncode == 0
    assert store.installed()[0].path.read_bytes() == CONTENT


def test_a_dropped_connection_is_continued_within_the_same_pull(
    hub: Hub, environment: dict[str, str]
) -> None:
    hub.drop_after_bytes = [1_500_000]
    result = pull(environment)
    assert result.returncode == 0, result.stderr
    first_bytes = [first for _, first in hub.ranges]
    assert first_bytes[0] == 0
    assert 0 < first_bytes[1] <= 1_500_000
    assert store.installed()[0].path.read_bytes() == CONTENT


def test_an_interrupted_pull_is_continued_by_the_next_one(
    hub: Hub, environment: dict[str, str], home: Path
) -> None:
    hub.stall_after_bytes = 2_500_000
    with subprocess.Popen(
        [sys.executable, "-m", "edgeapp", "models", "pull", f"hf:{REPO}"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert hub.stalled.wait(30)
        wait_until(lambda: any(part.stat().st_size > 0 for part in partials(home)))
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert b"Traceback" not in stderr
    (part,) = partials(home)
    kept_bytes = part.stat().st_size
    hub.stall_after_bytes = None
    hub.ranges.clear()
    result = pull(environment)
    assert result.returncode == 0, result.stderr
    assert hub.ranges == [(FILE, kept_bytes)]
    assert store.installed()[0].path.read_bytes() == CONTENT


def test_a_server_without_ranges_starts_over_instead_of_appending(
    hub: Hub, environment: dict[str, str]
) -> None:
    store.partial_path(hashlib.sha256(CONTENT).hexdigest()).write_bytes(CONTENT[:1_000_000])
    hub.ignore_ranges = True
    assert pull(environment).returncode == 0
    assert store.installed()[0].path.read_bytes() == CONTENT


def test_a_partial_file_that_is_too_long_is_started_over(environment: dict[str, str]) -> None:
    store.partial_path(hashlib.sha256(CONTENT).hexdigest()).write_bytes(CONTENT + b"more")
    assert pull(environment).returncode == 0
    assert store.installed()[0].path.read_bytes() == CONTENT


def test_corruption_that_keeps_the_length_is_refused_and_removed(
    hub: Hub, environment: dict[str, str], home: Path
) -> None:
    hub.corrupt = True
    result = pull(environment)
    assert result.returncode == 1
    assert "arrived damaged" in result.stderr
    assert partials(home) == []
    assert store.installed() == ()


def test_a_missing_repository_is_named(environment: dict[str, str]) -> None:
    result = pull(environment, "hf:acme/nothing")
    assert result.returncode == 1
    assert "no repository acme/nothing" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_gated_repository_says_where_to_accept_and_how_to_log_in(
    hub: Hub, environment: dict[str, str]
) -> None:
    hub.repos[REPO].gated = True
    result = pull(environment)
    assert result.returncode == 1
    assert f"{hub.url}/{REPO}" in result.stderr
    assert "HF_TOKEN" in result.stderr


def test_a_token_opens_a_gated_repository(hub: Hub, environment: dict[str, str]) -> None:
    hub.repos[REPO].gated = True
    result = pull(environment | {"HF_TOKEN": "hf_abc"})
    assert result.returncode == 0, result.stderr


def test_a_token_is_not_sent_to_the_host_that_serves_the_content(
    hub: Hub, environment: dict[str, str]
) -> None:
    hub.repos[REPO].gated = True
    hub.redirect = True
    hub.drop_after_bytes = [1_500_000]
    result = pull(environment | {"HF_TOKEN": "hf_abc"})
    assert result.returncode == 0, result.stderr
    assert len(hub.ranges) == 2
    assert set(hub.authorized_hosts) == {"127.0.0.1"}


def test_a_broken_hub_is_reported_with_its_status(hub: Hub, environment: dict[str, str]) -> None:
    hub.status = 500
    result = pull(environment)
    assert result.returncode == 1
    assert "HTTP 500" in result.stderr


def test_no_network_is_one_sentence(environment: dict[str, str]) -> None:
    result = pull(environment | {"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert result.returncode == 1
    assert "could not be reached" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("switch", ["HF_HUB_OFFLINE", "EDGEAPP_OFFLINE"])
def test_offline_without_a_copy_asks_nobody_and_says_so(
    hub: Hub, environment: dict[str, str], switch: str
) -> None:
    result = pull(environment | {switch: "1"})
    assert result.returncode == 1
    assert "switched off" in result.stderr
    assert hub.agents == set()


def test_offline_with_a_copy_is_content(hub: Hub, environment: dict[str, str]) -> None:
    pull(environment)
    hub.agents.clear()
    result = pull(environment | {"HF_HUB_OFFLINE": "1"})
    assert result.returncode == 0
    assert str(store.installed()[0].path) in result.stdout
    assert hub.agents == set()


def test_download_refuses_offline_before_anything_else() -> None:
    with pytest.raises(DownloadError, match="switched off"):
        download(HubRef(repo=REPO), offline=True, on_progress=lambda _: None)


def test_too_little_disk_space_is_told_in_numbers_before_downloading(
    hub: Hub, environment: dict[str, str], home: Path
) -> None:
    size_bytes = 49_000_000_000
    free_bytes = shutil.disk_usage(home.parent).free
    parts = 2 + free_bytes // size_bytes
    names = [f"Huge-Q4_K_M-{n:05}-of-{parts:05}.gguf" for n in range(1, parts + 1)]
    hub.repos[REPO] = Repo(
        files={name: gguf_like(size_bytes=100, seed=n) for n, name in enumerate(names)},
        announced_bytes=dict.fromkeys(names, size_bytes),
    )
    result = pull(environment)
    assert result.returncode == 1
    assert f"needs {(size_bytes * parts + 2**30) / 2**30:.1f} GiB" in result.stderr
    assert hub.ranges == []


def test_a_disk_that_fills_up_keeps_the_partial_file(environment: dict[str, str], home: Path) -> None:
    def limit_file_size() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_200_000, 1_200_000))

    result = edgeapp(environment, "models", "pull", f"hf:{REPO}", preexec=limit_file_size)
    assert result.returncode == 1
    assert "disk is full or a size limit" in result.stderr
    assert "Traceback" not in result.stderr
    assert partials(home)[0].stat().st_size == 1_200_000
    assert pull(environment).returncode == 0


def test_a_file_without_checksum_is_refused(hub: Hub, environment: dict[str, str]) -> None:
    hub.repos[REPO].without_checksum = {FILE}
    result = pull(environment)
    assert result.returncode == 1
    assert "no sha256" in result.stderr


def test_a_quant_is_found_in_any_case_and_an_unknown_one_lists_what_exists(
    hub: Hub, environment: dict[str, str]
) -> None:
    hub.repos[REPO].files["Tiny-Q8_0.gguf"] = gguf_like(size_bytes=5_000, seed=8)
    assert pull(environment, f"hf:{REPO}:q8_0").returncode == 0
    assert store.installed()[0].path.name == "Tiny-Q8_0.gguf"
    result = pull(environment, f"hf:{REPO}:Q2_K")
    assert result.returncode == 1
    assert "Q4_K_M" in result.stderr
    assert "Q8_0" in result.stderr


def test_all_parts_of_a_split_model_in_a_subfolder_arrive_side_by_side(
    hub: Hub, environment: dict[str, str]
) -> None:
    files = {f"Q5_K_M/Big-{n:05}-of-00003.gguf": gguf_like(size_bytes=20_000 + n, seed=n) for n in (1, 2, 3)}
    hub.repos["acme/Big-GGUF"] = Repo(files=files | {"mmproj-Q4_K_M.gguf": b"GGUF projector"})
    result = pull(environment, "acme/Big-GGUF")
    assert result.returncode == 0, result.stderr
    (model,) = store.installed()
    assert model.manifest.quant == "Q5_K_M"
    assert model.path.name == "Big-00001-of-00003.gguf"
    placed = {path.name: path.read_bytes() for path in model.folder.glob("*.gguf")}
    assert placed == {Path(path).name: content for path, content in files.items()}


def test_verify_names_the_flipped_byte_and_how_to_repair(environment: dict[str, str]) -> None:
    pull(environment)
    assert edgeapp(environment, "models", "verify").returncode == 0
    path = store.installed()[0].path
    path.chmod(0o644)
    path.write_bytes(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    result = edgeapp(environment, "models", "verify")
    assert result.returncode == 1
    assert str(path) in result.stderr
    assert f"edgeapp models pull {REPO}:Q4_K_M" in result.stderr


def test_two_pulls_at_once_do_not_write_the_same_file(
    hub: Hub, environment: dict[str, str], home: Path
) -> None:
    hub.stall_after_bytes = 2_500_000
    with subprocess.Popen(
        [sys.executable, "-m", "edgeapp", "models", "pull", f"hf:{REPO}"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as first:
        assert hub.stalled.wait(30)
        second = pull(environment)
        hub.stall_after_bytes = None
        hub.resume.set()
        assert first.wait(30) == 0
    assert second.returncode == 1
    assert "another process" in second.stderr
    assert store.installed()[0].path.read_bytes() == CONTENT


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline_s, "the condition did not come true within 30 s"
        time.sleep(0.02)

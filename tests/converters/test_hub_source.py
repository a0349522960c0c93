"""A checkpoint is converted while it comes from a real HTTP server, through the real huggingface_hub."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from edgeapp.references import HubRef
from edgeapp_converters.checkpoint import open_folder
from tests.converters.checkpoints import values, write_safetensors
from tests.converters.hub_visit import Visit, visit
from tests.hub_server import COMMIT, Hub, Repo, running_hub

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REPO = "acme/Tiny-MoE"
INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
Shapes = list[tuple[str, tuple[int, ...], str]]
TENSORS: tuple[Shapes, Shapes] = (
    [("a.weight", (700, 1024), "F32"), ("b.weight", (3, 5), "BF16")],
    [("c.weight", (300, 1024), "F32"), ("d.weight", (7,), "F16")],
)
HASHES = {
    tensor[0]: hashlib.sha256(values(*tensor).tobytes()).hexdigest() for shard in TENSORS for tensor in shard
}
THE_REPO = HubRef(repo=REPO)


class Visiting(Protocol):
    def __call__(self, ref: HubRef = ..., **options: Any) -> Visit: ...


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint that the hub offers."""
    folder = tmp_path_factory.mktemp("checkpoint")
    for shard, tensors in zip(SHARDS, TENSORS, strict=True):
        write_safetensors(folder / shard, tensors)
    weight_map = {name: shard for shard, t in zip(SHARDS, TENSORS, strict=True) for name, _, _ in t}
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps({"architectures": ["X"], "vocab_size": 32}))
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def hub(server: Hub, folder: Path) -> Iterator[Hub]:
    """The server without faults, offering the checkpoint and files that no conversion needs."""
    fresh = Hub(url=server.url)
    vars(server).update(vars(fresh))
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    others = {"pytorch_model.bin": b"\x80\x04", "original/model.safetensors": b"?", "training.log": b"x" * 99}
    server.repos[REPO] = Repo(files=files | others, in_git={"config.json", "tokenizer.json", INDEX})
    yield server
    server.resume.set()


@pytest.fixture(scope="module")
def process(server: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessPoolExecutor]:
    """One process for all visits: importing huggingface_hub takes a second."""
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("HF_HUB_OFFLINE", raising=False)
        environment.setenv("HF_ENDPOINT", server.url)
        environment.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            pool.submit(os.getpid).result()
            yield pool


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def visited(process: ProcessPoolExecutor, hub: Hub, home: Path) -> Visiting:
    def run(ref: HubRef = THE_REPO, **options: Any) -> Visit:
        environment = {"EDGEAPP_HOME": str(home)} | options.pop("environment", {})
        return process.submit(visit, environment, ref, **options).result(timeout=60)

    return run


def checkpoint_folder(home: Path) -> Path:
    return home / "cache" / "checkpoints" / f"acme--Tiny-MoE--{COMMIT[:12]}"


def test_a_repository_is_planned_from_headers_without_downloading_a_shard(
    hub: Hub, visited: Visiting, home: Path
) -> None:
    found = visited(read=False)
    assert found.error == "", found.message
    assert found.name == "Tiny-MoE"
    assert found.shards == SHARDS
    here = {path.name for path in checkpoint_folder(home).iterdir()}
    assert here == {"config.json", "tokenizer.json", "README.md", INDEX, "repository.json"}
    assert all(hub.sent_bytes[shard] <= 1 << 17 for shard in SHARDS)


def test_a_header_longer_than_the_first_request_takes_a_second_one(hub: Hub, visited: Visiting) -> None:
    many = {f"{'x' * 200}.{n}": {"dtype": "U8", "shape": [1], "data_offsets": [n, n + 1]} for n in range(800)}
    header = json.dumps(many).encode()
    assert len(header) > 1 << 17
    shard = len(header).to_bytes(8, "little") + header + bytes(800)
    hub.repos[REPO].files = {"config.json": b"{}", "model.safetensors": shard}
    assert visited(read=False).error == ""
    assert hub.ranges.count(("model.safetensors", 8)) == 1


def test_what_is_read_is_what_the_repository_holds(visited: Visiting, folder: Path) -> None:
    found = visited()
    assert found.error == "", found.message
    assert found.tensors == HASHES
    assert found.sha256 == open_folder(folder).source.sha256()


def test_shards_that_are_small_enough_for_git_are_verified_and_identified_too(
    hub: Hub, visited: Visiting, folder: Path
) -> None:
    hub.repos[REPO].in_git |= {*SHARDS}
    found = visited()
    assert found.tensors == HASHES, found.message
    assert found.sha256 == open_folder(folder).source.sha256()
    hub.corrupt, hub.faulty_file = True, SHARDS[0]
    assert visited(environment={"EDGEAPP_HOME": f"{found.folder}-2"}).error == "VerificationFailed"


def test_nothing_but_shards_and_small_files_is_downloaded(hub: Hub, visited: Visiting) -> None:
    visited()
    assert set(hub.sent_bytes) <= {"README.md", "config.json", "tokenizer.json", INDEX, *SHARDS}


def test_kept_shards_are_not_downloaded_again(hub: Hub, visited: Visiting) -> None:
    first = visited(keep_shards=True)
    hub.sent_bytes.clear()
    second = visited(keep_shards=True)
    assert second.tensors == HASHES
    assert second.fingerprint == first.fingerprint
    assert hub.sent_bytes == {}


def test_a_released_shard_is_deleted_unless_it_is_kept(visited: Visiting, home: Path) -> None:
    assert visited(keep_shards=False).tensors == HASHES
    assert list(checkpoint_folder(home).glob("model-*")) == []
    visited(keep_shards=True)
    assert sorted(path.name for path in checkpoint_folder(home).glob("*.safetensors")) == list(SHARDS)


def test_a_shard_that_was_never_fetched_can_be_released(visited: Visiting, home: Path) -> None:
    visited(keep_shards=True)
    found = visited(read=False, keep_shards=False, release_unread=True)
    assert found.error == "", found.message
    assert list(checkpoint_folder(home).glob("model-*")) == []
    assert visited(keep_shards=False, release_unread=True).tensors == HASHES


def test_progress_ends_with_all_bytes_of_each_shard(visited: Visiting, folder: Path) -> None:
    stages = visited().stages
    for shard in SHARDS:
        n_bytes = (folder / shard).stat().st_size
        for stage in ("downloading", "checking"):
            last = [event for event in stages if event.stage == stage and event.label == shard][-1]
            assert (last.done, last.total, last.unit) == (n_bytes, n_bytes, "bytes")
    assert [e.done == e.total for e in stages if e.label == "headers of the shards"][-1]


def test_a_dropped_connection_is_continued_within_the_same_fetch(hub: Hub, visited: Visiting) -> None:
    hub.faulty_file = SHARDS[0]
    hub.drop_after_bytes = [1_500_000, 1_500_000]  # the first is the request for the header, which is shorter
    found = visited()
    assert found.tensors == HASHES, found.message
    assert any(0 < first <= 1_500_000 for path, first in hub.ranges if path == SHARDS[0])


def test_a_header_request_that_is_cut_is_tried_again(hub: Hub, visited: Visiting) -> None:
    hub.faulty_file = SHARDS[0]
    hub.drop_after_bytes = [4]
    assert visited(read=False).error == ""


def test_a_killed_download_goes_on_where_it_stopped(hub: Hub, visited: Visiting, home: Path) -> None:
    visited(read=False)
    hub.faulty_file = SHARDS[0]
    hub.stall_after_bytes = 2_500_000
    script = (
        "from edgeapp.references import HubRef; from tests.converters.hub_visit import visit; "
        f"visit({{'EDGEAPP_HOME': {str(home)!r}}}, HubRef(repo={REPO!r}))"
    )
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    environment = kept | {"HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hf")}
    part = checkpoint_folder(home) / f"{SHARDS[0]}.part"
    with subprocess.Popen([sys.executable, "-c", script], env=environment) as process:
        assert hub.stalled.wait(30)
        wait_for_bytes(part)
        process.kill()
    kept_bytes = part.stat().st_size
    hub.stall_after_bytes = None
    hub.ranges.clear()
    found = visited()
    assert found.tensors == HASHES, found.message
    assert (SHARDS[0], kept_bytes) in hub.ranges


def wait_for_bytes(part: Path) -> None:
    deadline_s = time.monotonic() + 30
    while not part.exists() or part.stat().st_size < 1_000_000:
        assert time.monotonic() < deadline_s, "nothing arrived within 30 s"
        time.sleep(0.02)


def test_a_shard_with_another_sha256_is_refused_and_removed(hub: Hub, visited: Visiting, home: Path) -> None:
    hub.faulty_file = SHARDS[1]
    hub.corrupt = True
    found = visited()
    assert found.error == "VerificationFailed"
    assert "arrived damaged" in found.message
    assert SHARDS[1] in found.message
    assert found.tensors.keys() == {"a.weight", "b.weight"}
    assert list(checkpoint_folder(home).glob(f"{SHARDS[1]}*")) == []
    hub.corrupt = False
    assert visited().tensors == HASHES


def test_a_small_file_in_git_is_verified_too(hub: Hub, visited: Visiting) -> None:
    hub.faulty_file = "tokenizer.json"
    hub.corrupt = True
    found = visited()
    assert (found.error, "tokenizer.json arrived damaged" in found.message) == ("VerificationFailed", True)


def test_a_shard_whose_header_is_not_the_planned_one_is_refused(
    hub: Hub, visited: Visiting, home: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.safetensors"
    write_safetensors(other, [("z.weight", (700, 1024), "F32"), ("b.weight", (3, 5), "BF16")])
    hub.repos[REPO].header_of[SHARDS[0]] = other.read_bytes()
    hub.repos[REPO].files.pop(INDEX)
    found = visited()
    assert found.error == "InvalidCheckpoint"
    assert "is not the one that was read before its download" in found.message


def test_a_shard_without_checksum_is_refused(hub: Hub, visited: Visiting) -> None:
    hub.repos[REPO].without_checksum = {SHARDS[0]}
    found = visited()
    assert (found.error, "no sha256" in found.message) == ("DownloadError", True)


def test_a_missing_shard_is_named_before_anything_large_is_downloaded(hub: Hub, visited: Visiting) -> None:
    del hub.repos[REPO].files[SHARDS[1]]
    found = visited()
    assert found.error == "InvalidCheckpoint"
    assert SHARDS[1] in found.message
    assert SHARDS[0] not in hub.sent_bytes


def test_a_server_without_ranges_is_told_only_where_they_are_needed(hub: Hub, visited: Visiting) -> None:
    hub.ignore_ranges = True
    assert visited().tensors == HASHES


def test_a_header_is_there_before_a_server_without_ranges_has_sent_the_whole_shard(
    hub: Hub, visited: Visiting
) -> None:
    hub.ignore_ranges = True
    hub.faulty_file = SHARDS[0]
    hub.stall_after_bytes = 400_000
    assert visited(read=False).error == ""
    assert not hub.resume.is_set()


def test_a_repository_of_pickles_or_ggufs_is_refused_with_the_reason(hub: Hub, visited: Visiting) -> None:
    hub.repos[REPO].files = {"config.json": b"{}", "pytorch_model.bin": b"\x80\x04"}
    assert visited().error == "UnsupportedCheckpoint"
    hub.repos[REPO].files = {"model-Q8_0.gguf": b"GGUF"}
    found = visited()
    assert (found.error, "holds a GGUF" in found.message) == ("UnsupportedCheckpoint", True)
    assert "edgeapp run" in found.hint


def test_a_quant_in_the_reference_is_a_usage_error(visited: Visiting) -> None:
    found = visited(HubRef(repo=REPO, quant="Q4_K_M"))
    assert (found.error, found.hint) == ("UsageError", f"Write hf:{REPO}.")


def test_a_missing_repository_and_revision_are_named(visited: Visiting) -> None:
    assert visited(HubRef(repo="acme/nothing")).error == "ModelNotFound"
    found = visited(HubRef(repo=REPO, revision="v9"))
    assert (found.error, "v9" in found.message) == ("ModelNotFound", True)


def test_a_gated_repository_is_opened_with_a_token_that_stays_with_the_hub(
    hub: Hub, visited: Visiting
) -> None:
    hub.repos[REPO].gated = True
    refused = visited()
    assert (refused.error, "HF_TOKEN" in refused.hint) == ("DownloadError", True)
    hub.redirect = True
    assert visited(environment={"HF_TOKEN": "hf_abc"}).tensors == HASHES
    assert set(hub.authorized_hosts) == {"127.0.0.1"}


def test_a_commit_that_would_lead_out_of_the_cache_is_refused(
    hub: Hub, visited: Visiting, home: Path
) -> None:
    hub.commit = "../../../x"
    assert visited().error == "DownloadError"
    assert not (home / "cache" / "checkpoints").exists()


def test_names_in_a_repository_cannot_lead_out_of_the_cache(hub: Hub, visited: Visiting, home: Path) -> None:
    hub.repos[REPO].files |= {"../../tokenizer.json": b"{}", "additional_chat_templates/../x.jinja": b"x"}
    assert visited().error == ""
    assert {path.parent for path in home.rglob("*") if path.is_file()} == {checkpoint_folder(home)}


def test_offline_asks_nobody_and_uses_what_is_here(hub: Hub, visited: Visiting) -> None:
    refused = visited(offline=True)
    assert (refused.error, "switched off" in refused.message) == ("DownloadError", True)
    online = visited()
    hub.agents.clear()
    found = visited(offline=True)
    assert found.tensors == HASHES, found.message
    assert found.fingerprint == online.fingerprint
    assert hub.agents == set()


def test_offline_without_a_shard_says_which(hub: Hub, visited: Visiting, home: Path) -> None:
    visited()
    (checkpoint_folder(home) / SHARDS[1]).unlink()
    hub.agents.clear()
    found = visited(environment={"HF_HUB_OFFLINE": "1"})
    assert found.error == "DownloadError"
    assert SHARDS[1] in found.message
    assert hub.agents == set()


def test_another_commit_has_another_fingerprint_and_folder(hub: Hub, visited: Visiting) -> None:
    first = visited(read=False)
    hub.commit = COMMIT[::-1]
    second = visited(read=False)
    assert second.fingerprint != first.fingerprint
    assert second.folder != first.folder

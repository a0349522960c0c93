"""`edgeapp convert`, and `edgeapp run` on a checkpoint, as commands in processes of their own."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from edgeapp.gguf_info import read_gguf_info
from tests.cli.processes import COMMAND, edgeapp
from tests.converters.checkpoints import write_checkpoint, write_large_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

N_KILLS = int(os.environ.get("EDGEAPP_TEST_KILLS", "3"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny-qwen", "qwen3_moe", n_shards=3)


@pytest.fixture(scope="module")
def large_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough that a conversion takes some seconds."""
    return write_large_checkpoint(tmp_path_factory.mktemp("checkpoints") / "large")


def test_a_folder_becomes_a_gguf_that_says_how_it_was_made(checkpoint: Path, tmp_path: Path) -> None:
    done = edgeapp("convert", checkpoint, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    made = tmp_path / "tiny-qwen-moe4.gguf"
    assert hashlib.sha256(made.read_bytes()).hexdigest() in done.stdout
    info = read_gguf_info(made)
    assert (info.arch, info.n_expert, info.has_chat_template) == ("qwen3moe", 8, True)
    assert dict(info.conversion)["recipe"] == "moe4"
    assert {share.name for share in info.tensor_types} == {"Q4_K", "Q5_K", "Q6_K", "Q8_0", "F32"}
    assert sorted(path.name for path in tmp_path.glob("*.gguf*")) == [made.name]


def test_json_is_one_object_with_size_types_and_hash(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.gguf"
    done = edgeapp("convert", checkpoint, "-o", out, "--recipe", "q4_k_m", "--json")
    result = json.loads(done.stdout)
    assert result["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert result["bytes"] == out.stat().st_size
    assert result["tensor_types"].keys() == {"Q4_K", "Q6_K", "Q5_K", "Q8_0", "F32"}
    assert 4.5 < result["bits_per_weight"] < 6.5
    assert result["quality"] is None


def test_an_existing_file_is_left_alone_unless_forced(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.gguf"
    out.write_text("precious")
    refused = edgeapp("convert", checkpoint, "-o", out)
    assert (refused.returncode, out.read_text()) == (2, "precious")
    assert "--force" in refused.stderr
    assert edgeapp("convert", checkpoint, "-o", out, "--force").returncode == 0
    assert out.read_bytes()[:4] == b"GGUF"


def test_a_failed_conversion_leaves_the_existing_file(checkpoint: Path, tmp_path: Path) -> None:
    damaged = write_checkpoint(tmp_path / "damaged", "qwen3_moe")
    shard = damaged / "model.safetensors"
    data = bytearray(shard.read_bytes())
    data[-2:] = b"\xff\x7f"  # NaN in BF16
    shard.write_bytes(data)
    out = tmp_path / "model.gguf"
    out.write_text("precious")
    done = edgeapp("convert", damaged, "-o", out, "--force", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["code"] == "invalid_checkpoint"
    assert "NaN" in done.stderr
    assert out.read_text() == "precious"


@pytest.mark.parametrize(
    "options",
    [
        ("--calibrate", "code", "--imatrix", "x.gguf"),
        ("--fit", "--recipe", "moe4"),
        ("--max-ram", "8G"),
        ("--text", "code"),
        ("--recipe", "no-such-recipe"),
        ("--calibrate", "no-such-text"),
        ("-o", "model.bin"),
        ("-o", "no/such/folder/model.gguf"),
        ("--pre", "no-such-pre"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(
    checkpoint: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    done = edgeapp("convert", checkpoint, *options, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert list(tmp_path.glob("*.gguf*")) == []


def test_a_dry_run_writes_nothing(checkpoint: Path, tmp_path: Path) -> None:
    done = edgeapp("convert", checkpoint, "--dry-run", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["recipe"] == "moe4"
    assert list(tmp_path.glob("*.gguf*")) == []


def test_calibrated_and_verified_files_carry_what_was_measured(checkpoint: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The pump on line three was replaced, and the seal is dry again. " * 60)
    out = tmp_path / "model.gguf"
    options = ("-o", out, "--calibrate", text, "--verify", "--text", text, "--json")
    done = edgeapp("convert", checkpoint, *options)
    assert done.returncode == 0, done.stderr
    quality = json.loads(done.stdout)["quality"]
    written = dict(read_gguf_info(out).conversion)
    assert written["quality.kld_mean"] == pytest.approx(quality["kld_mean"], rel=1e-6)
    assert written["quality.n_tokens"] == quality["n_tokens"] > 100
    assert written["quality.base"] == "BF16"
    assert written["calibration.text"] == "text.txt"
    assert len(str(written["source.sha256"])) == 64
    assert sorted(path.name for path in tmp_path.glob("model*")) == ["model.gguf"]
    shown = edgeapp("inspect", out).stdout
    assert "KL divergence" in shown
    assert "task score kept" in shown


def test_killed_anywhere_and_run_again_the_file_is_the_same(large_checkpoint: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole.gguf"
    started_s = time.monotonic()
    assert edgeapp("convert", large_checkpoint, "-o", whole, "--threads", "1").returncode == 0
    took_s = time.monotonic() - started_s
    moments = random.Random(4)
    killed = tmp_path / "killed.gguf"
    n_parts = 0
    for _ in range(N_KILLS):
        _kill_after(moments.uniform(0.2, 0.9) * took_s, large_checkpoint, killed)
        n_parts += killed.with_name("killed.gguf.part").exists()
        assert not killed.exists() or killed.read_bytes() == whole.read_bytes()
        killed.unlink(missing_ok=True)
    assert n_parts or N_KILLS < 3, "no kill came while the file was written"
    assert edgeapp("convert", large_checkpoint, "-o", killed, "--threads", "2").returncode == 0
    assert killed.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.glob("*.gguf*")) == ["killed.gguf", "whole.gguf"]


def test_control_c_keeps_the_part_and_says_how_to_go_on(large_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.gguf"
    with _start(large_checkpoint, out) as process:
        _wait_for(out.with_name("model.gguf.part"))
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in errors
    assert b"the same command goes on" in errors
    assert out.with_name("model.gguf.part").exists()
    assert not out.exists()


def test_run_converts_a_checkpoint_once_and_then_answers(tmp_path: Path) -> None:
    folder = tmp_path / "known"
    write_checkpoint(folder, "qwen3_moe")
    arguments = ("run", folder, "-p", "Hello", "--temp", "0", "--max-tokens", "4", "--json")
    first, second = edgeapp(*arguments), edgeapp(*arguments)
    assert first.returncode == 0, first.stderr
    assert "Converting" in first.stderr
    assert "Converting" not in second.stderr
    assert json.loads(first.stdout)["text"] == json.loads(second.stdout)["text"]
    listed = json.loads(edgeapp("models", "list", "--json").stdout)
    assert [row["name"] for row in listed if row["installed"]].count("local/known:moe4") == 1


def _start(checkpoint: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [*COMMAND, "convert", str(checkpoint), "-o", str(out), "--threads", "1"]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def _kill_after(delay_s: float, checkpoint: Path, out: Path) -> None:
    with _start(checkpoint, out) as process:
        time.sleep(delay_s)
        process.kill()


def _wait_for(path: Path) -> None:
    deadline_s = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline_s, f"{path} never came"
        time.sleep(0.01)

"""`edgeapp inspect` shows what the header says, to people and to programs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgeapp.cli.inspect import command
from tests.gguf_bytes import F32, GgufBytes, model_keys, number, text
from tests.tiny_moe import demo_model_path, write_tiny_moe

CONTRACT = {
    "arch",
    "parameters",
    "active_parameters",
    "n_expert",
    "n_expert_used",
    "bits_per_weight",
    "tensor_types",
    "file_bytes",
    "n_ctx_train",
}


@pytest.fixture(autouse=True)
def private_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEAPP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def run(*arguments: str) -> str:
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def table(*arguments: str) -> dict[str, str]:
    """Split the aligned table into labels and values."""
    return {line[:15].rstrip(): line[17:] for line in run(*arguments).splitlines()}


def program(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgeapp", "inspect", *arguments], check=False, capture_output=True, text=True
    )


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_moe(tmp_path / "tiny.gguf")


def test_the_table_says_what_a_moe_is(tiny: Path) -> None:
    rows = table(str(tiny))
    assert rows["architecture"] == "llama"
    assert rows["parameters"] == "238 K, 165 K active per token"
    assert rows["experts"] == "2 of 4 used"
    assert rows["size"] == "1.0 MB"
    assert rows["bits per weight"] == "32.00"
    assert rows["tensor types"] == "F32 100.0% (the file says: F32)"
    assert rows["context"].startswith("512 tokens trained")
    assert rows["tokenizer"] == "gpt2 (smollm), 1,024 tokens"
    assert rows["chat template"] == "yes"
    assert rows["licence"] == "apache-2.0"
    assert rows["source"] == "not stated in the file"
    assert "sampling" not in rows


def test_the_table_says_what_a_dense_model_is() -> None:
    rows = table("smollm2-135m")
    assert rows["experts"] == "dense"
    assert rows["parameters"] == "135 M"
    assert rows["tensor types"].startswith("Q4_1 68.7%, Q8_0 31.1%, F32 0.1%")


def test_json_carries_the_contract_and_the_type_mix(tiny: Path) -> None:
    facts = json.loads(run(str(tiny), "--json"))
    assert facts.keys() >= CONTRACT
    assert facts["arch"] == "llama"
    assert (facts["n_expert"], facts["n_expert_used"]) == (4, 2)
    assert facts["tensor_types"] == {"F32": {"count": 22, "parameters": 238_400, "bytes": 953_600}}
    assert facts["parts"] == [facts["path"]] == [str(tiny)]


def test_the_dense_demo_is_the_file_of_its_package() -> None:
    facts = json.loads(run("smollm2-135m", "--json"))
    assert Path(facts["path"]).samefile(demo_model_path())
    assert facts["file_bytes"] == demo_model_path().stat().st_size


def test_a_split_model_is_one_model(tmp_path: Path) -> None:
    write_tiny_moe(tmp_path / "parts.gguf", split_max_tensors=8)
    last = str(tmp_path / "parts-00003-of-00003.gguf")
    assert table(last)["size"] == "1.0 MB in 3 parts"
    assert json.loads(run(last, "--json"))["is_split"] is True


def test_sampling_advice_and_source_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "advice.gguf"
    keys = model_keys(
        general__sampling__temp=number(0.7, F32),
        general__sampling__top_k=number(20),
        general__repo_url=text("https://example.org/model"),
    )
    path.write_bytes(GgufBytes(keys=list(keys.items())).encode())
    rows = table(str(path))
    assert rows["sampling"] == "temp 0.7, top_k 20"
    assert rows["source"] == "https://example.org/model"
    assert json.loads(run(str(path), "--json"))["sampling"]["top_k"] == 20


def test_nothing_from_the_file_controls_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "evil.gguf"
    keys = model_keys(general__name=text("\x1b]52;c;aGk=\x07"), general__license=text("a\u202eb"))
    path.write_bytes(GgufBytes(keys=list(keys.items())).encode())
    for output in (run(str(path)), run(str(path), "--json")):
        assert "\x1b" not in output
        assert "\u202e" not in output


def test_a_bad_file_ends_with_a_sentence_a_hint_and_exit_code_1(tmp_path: Path) -> None:
    path = tmp_path / "page.gguf"
    path.write_bytes(b"<html>")
    done = program(str(path))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {path} is not a GGUF model; it is a web page.\nhint: ")


def test_a_missing_file_ends_with_exit_code_1(tmp_path: Path) -> None:
    done = program(str(tmp_path / "nope.gguf"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_help_shows_an_example() -> None:
    assert "edgeapp inspect ./model.gguf" in run("--help")

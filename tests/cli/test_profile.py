"""`edgeapp profile` for people and for programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from tests.cli.processes import edgeapp

if TYPE_CHECKING:
    from pathlib import Path

FOX = "The quick brown fox jumps over the lazy dog.\n" * 20


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "fox.txt"
    path.write_text(FOX)
    return path


def test_programs_get_the_promised_json_on_stdout_and_in_the_file(
    tiny_moe: Path, text: Path, tmp_path: Path
) -> None:
    output, picture = tmp_path / "usage.json", tmp_path / "usage.svg"
    options = ("--text", text, "--text", "code", "--tokens", "80", "--threads", "1")
    done = edgeapp("profile", tiny_moe, *options, "--json", "--output", output, "--svg", picture)
    assert done.returncode == 0, done.stderr
    profile = json.loads(done.stdout)
    assert profile == json.loads(output.read_text())
    assert profile.keys() == {"model", "n_expert", "n_expert_used", "texts"}
    assert (profile["model"], profile["n_expert"], profile["n_expert_used"]) == ("tiny-moe.gguf", 4, 2)
    assert [(found["name"], found["n_tokens"]) for found in profile["texts"]] == [
        ("fox.txt", 80),
        ("code", 80),
    ]
    for found in profile["texts"]:
        assert found.keys() == {"name", "n_tokens", "layers"}
        assert [layer["layer"] for layer in found["layers"]] == [0, 1]
        assert all(sum(layer["counts"]) == 160 for layer in found["layers"])
    assert "Measuring fox.txt: 100 %" in done.stderr
    assert ET.parse(picture).getroot().tag.endswith("svg")  # noqa: S314 - written by ourselves


def test_people_get_a_heat_map_and_tables_without_escape_sequences_in_a_pipe(
    tiny_moe: Path, text: Path
) -> None:
    options = ("--text", text, "--text", "code", "--tokens", "80", "--threads", "1")
    done = edgeapp("profile", tiny_moe, *options)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert lines[0] == "fox.txt: 2 of 4 experts used by each token"
    assert lines[1].startswith("0 ")
    assert all(len(line) <= 80 for line in lines)
    for said in ("never used", "evenness", "fox.txt and code", "divergence", "by chance"):
        assert said in done.stdout


def test_a_dense_model_is_refused_with_a_sentence(demo_model: Path, text: Path) -> None:
    done = edgeapp("profile", demo_model, "--text", text, "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["code"] == "unsupported_model"
    assert "is dense: it has no experts" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_text_and_a_missing_folder_are_told_before_the_work(
    tiny_moe: Path, text: Path, tmp_path: Path
) -> None:
    unknown = edgeapp("profile", tiny_moe, "--text", tmp_path / "nothing.txt")
    assert unknown.returncode == 2
    assert "There is no text" in unknown.stderr
    lost = edgeapp("profile", tiny_moe, "--text", text, "--svg", tmp_path / "no" / "such" / "x.svg")
    assert lost.returncode == 2
    assert "There is no folder" in lost.stderr
    assert "Measuring" not in lost.stderr

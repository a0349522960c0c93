"""`edgeapp quality` for people and for programs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from edgeapp.cli.quality import PROMISED_RETENTION, verdict
from edgeapp_converters.quality import QualityReport, TaskReport
from tests.cli.processes import edgeapp
from tests.converters.noisy import write_noisy
from tests.tiny_moe import write_tiny_moe

if TYPE_CHECKING:
    from pathlib import Path

KEYS = {"kld_mean", "kld_p999", "top1_agreement", "top1_ci", "ppl_base", "ppl_quant", "n_tokens"}
TASK = [
    {
        "context": f"Item {n}: the sky is",
        "choices": [" blue", " green grass"],
        "answer": n % 2,
        "family": "sky",
    }
    for n in range(6)
]


@pytest.fixture(scope="module")
def inputs(tiny_moe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a noisy copy of the model, a text and a task."""
    folder = tmp_path_factory.mktemp("quality")
    write_noisy(tiny_moe, folder / "noisy.gguf")
    (folder / "text.txt").write_text("The quick brown fox jumps over the lazy dog.\n" * 20)
    (folder / "task.jsonl").write_text("".join(json.dumps(item) + "\n" for item in TASK))
    return folder


def test_json_has_the_promised_keys(tiny_moe: Path, inputs: Path) -> None:
    options = (
        "--text",
        inputs / "text.txt",
        "--task",
        inputs / "task.jsonl",
        "--n-ctx",
        "64",
        "--threads",
        "1",
    )
    done = edgeapp("quality", tiny_moe, inputs / "noisy.gguf", *options, "--max-tokens", "128", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts.keys() >= KEYS | {"retention", "retention_ci", "task_items", "base", "quant"}
    assert (facts["n_tokens"], facts["task_items"]) == (62, 6)
    assert facts["text_name"] == "text.txt"
    assert 0 < facts["kld_mean"] < facts["kld_p999"]
    assert "Comparing text: 100 %" in done.stderr


def test_people_get_a_table_and_a_sentence(tiny_moe: Path, inputs: Path) -> None:
    options = ("--text", inputs / "text.txt", "--no-task", "--n-ctx", "64", "--threads", "1")
    done = edgeapp("quality", tiny_moe, inputs / "noisy.gguf", *options, "--max-tokens", "64")
    assert done.returncode == 0, done.stderr
    rows = done.stdout.splitlines()
    assert rows[1].startswith("quant            noisy.gguf, ")
    assert any(row.startswith("KL divergence") for row in rows)
    assert "95 % interval" in done.stdout
    assert rows[-1].startswith("With 100% of the size")
    assert "score kept" not in done.stdout


def test_contradictory_flags_are_a_usage_error(tiny_moe: Path) -> None:
    done = edgeapp("quality", tiny_moe, tiny_moe, "--task", "everyday", "--no-task")
    assert done.returncode == 2
    assert "contradict" in done.stderr


def test_another_vocabulary_is_an_error_for_programs_too(
    tiny_moe: Path, inputs: Path, tmp_path: Path
) -> None:
    other = write_tiny_moe(tmp_path / "small.gguf", n_vocab=512)
    done = edgeapp(
        "quality", tiny_moe, other, "--text", inputs / "text.txt", "--no-task", "--n-ctx", "64", "--json"
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["code"] == "unsupported_model"
    assert "different vocabularies" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("retention", "interval", "said"),
    [
        (0.999, (0.990, 1.01), "at least the promised 98.7%"),
        (0.95, (0.91, 0.98), "less than the promised 98.7%"),
        (0.99, (0.97, 1.01), "too few to tell"),
    ],
)
def test_the_promise_is_claimed_only_when_the_interval_says_so(
    retention: float, interval: tuple[float, float], said: str
) -> None:
    task = TaskReport(
        task_name="x",
        task_items=300,
        task_base=0.5,
        task_quant=0.5 * retention,
        retention=retention,
        retention_ci=interval,
        flips=3,
    )
    assert said in verdict(replace(report(), task=task))
    assert PROMISED_RETENTION == 0.987


def test_the_sentence_counts_the_changed_words() -> None:
    assert "one word in 8.0 would be another" in verdict(report())
    assert "the same word everywhere" in verdict(replace(report(), top1_agreement=1.0))


def report() -> QualityReport:
    return QualityReport(
        kld_mean=0.05,
        kld_median=0.03,
        kld_p99=0.3,
        kld_p999=0.5,
        kld_max=0.9,
        top1_agreement=0.875,
        top1_ci=(0.85, 0.9),
        ppl_base=10.0,
        ppl_quant=10.5,
        ppl_ratio=1.05,
        rms_dp=0.04,
        n_tokens=1000,
        n_chunks=4,
        n_ctx=512,
        text_name="text",
        text_sha256="0" * 64,
        base_bytes=1000,
        quant_bytes=300,
        base_bpw=16.0,
        quant_bpw=4.8,
        task=None,
    )

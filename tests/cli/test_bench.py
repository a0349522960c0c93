"""`edgeapp bench` for people and for programs. What is fast is not asserted, only what is said."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from edgeapp.bench.expert_counts import CountResult, Loss
from edgeapp.bench.speed import Rate, Speed
from edgeapp.cli.bench_tables import CountsReport
from edgeapp.gguf_info import read_gguf_info
from tests.cli.processes import edgeapp

if TYPE_CHECKING:
    from pathlib import Path

SMALL = ("--prompt", "32", "--decode", "4", "--repeats", "2", "--threads", "1")


def test_programs_get_the_speed_as_json(tiny_moe: Path) -> None:
    done = edgeapp("bench", tiny_moe, *SMALL, "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["model"] == str(tiny_moe)
    for name in ("prefill_tps", "decode_tps"):
        assert 0 < facts[f"{name}_min"] <= facts[name] <= facts[f"{name}_max"]
    assert (facts["n_decode_tokens"], facts["n_repeats"], facts["n_threads"]) == (4, 2, 1)
    assert "Measuring: 100 %" in done.stderr


def test_people_get_a_table(tiny_moe: Path) -> None:
    done = edgeapp("bench", tiny_moe, *SMALL)
    assert done.returncode == 0, done.stderr
    labels = [line.split("  ")[0] for line in done.stdout.splitlines()[:7]]
    assert labels == ["model", "threads", "GPU", "load", "prefill", "decode", "first token"]
    assert "2 of 4 experts" in done.stdout
    assert "Median of 2 repeats" in done.stdout


def test_numbers_of_experts_are_compared_with_the_trained_one(tiny_moe: Path) -> None:
    done = edgeapp(
        "bench", tiny_moe, *SMALL, "--experts", "4,1", "--tokens", "64", "--text", "code", "--json"
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["n_expert"], facts["n_expert_used"], facts["text"]) == (4, 2, "code")
    assert [entry["experts"] for entry in facts["counts"]] == [1, 2, 4]
    one, trained, four = facts["counts"]
    assert trained["is_trained"]
    assert (trained["kld"], trained["same_top1"]) == (0, 1)
    for entry in (one, four):
        assert entry["kld_ci"][0] <= entry["kld"] <= entry["kld_ci"][1]
        assert entry["same_top1_ci"][0] <= entry["same_top1"] <= entry["same_top1_ci"][1]
        assert entry["n_tokens"] == 31
        assert entry["kld"] > 1e-4
        assert min(entry["decode_tps"], entry["prefill_tps"]) > 0


@pytest.mark.parametrize(
    ("experts", "said"),
    [
        ("1,x", "'x' is not a number"),
        ("0,1", "can use 1 to 4"),
        ("5", "can use 1 to 4"),
        ("", "not a number"),
    ],
)
def test_numbers_that_cannot_be_meant_are_a_usage_error(tiny_moe: Path, experts: str, said: str) -> None:
    done = edgeapp("bench", tiny_moe, "--experts", experts)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_dense_model_has_a_speed_but_no_experts(demo_model: Path) -> None:
    done = edgeapp("bench", demo_model, "--experts", "1", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["code"] == "unsupported_model"
    assert "dense" in done.stderr


def test_what_does_not_fit_into_the_context_is_a_usage_error(tiny_moe: Path) -> None:
    done = edgeapp("bench", tiny_moe, "--threads", "1")
    assert done.returncode == 2
    assert "do not fit into the context of 512" in done.stderr


def test_the_table_says_how_many_times_as_fast(tiny_moe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loss = Loss(kld=0.25, kld_ci=(0.2, 0.3), same_top1=0.75, same_top1_ci=(0.7, 0.8), n_tokens=1020)
    results = (
        CountResult(experts=1, speed=speed(150.0), loss=loss),
        CountResult(experts=2, speed=speed(100.0), loss=None),
    )
    CountsReport(info=read_gguf_info(tiny_moe), text_name="prose", results=results).print()
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].count("150.0 (1.50×)") == 2
    assert "0.2500 (0.2000 to 0.3000)" in lines[3]
    assert "75.0% (70.0% to 80.0%)" in lines[3]
    assert "as trained" in lines[4]
    assert "×" not in lines[4]
    assert "1,020 tokens of prose" in lines[-1]


def speed(tps: float) -> Speed:
    rate = Rate(median_tps=tps, min_tps=tps, max_tps=tps)
    return Speed(prefill=rate, decode=rate, ttft_s=0.1, n_prompt_tokens=512, n_decode_tokens=128, n_repeats=5)

"""The benchmarks read llama-fit-params and write llama-server's options without losing anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks._fit_params import parse
from benchmarks.gpu.placements import plan_options
from benchmarks.gpu.results import Result, Results, table
from tests.placement.recorded_fit import Case, FitChoice, read_record, write_record

if TYPE_CHECKING:
    from pathlib import Path

EXPERTS = "ffn_(up|down|gate_up|gate)_(ch|)exps"


def test_a_printed_choice_is_read_with_its_overrides() -> None:
    printed = rf'-c 4096 -ngl 49 -ot "blk\.3\.ffn_down.*=CPU,blk\.4\.{EXPERTS}=CPU"'
    wanted = ((r"blk\.3\.ffn_down.*", "CPU"), (rf"blk\.4\.{EXPERTS}", "CPU"))
    assert parse(printed) == FitChoice(n_ctx=4096, n_gpu_layers=49, overrides=wanted)


def test_a_printed_choice_without_overrides_is_read() -> None:
    assert parse("noise\n-c 4096 -ngl -1") == FitChoice(n_ctx=4096, n_gpu_layers=-1, overrides=())


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    overrides = [(r"blk\.2\.ffn_down.*", "CPU"), *((rf"blk\.{n}\.{EXPERTS}", "CPU") for n in (3, 4, 5, 9))]
    choices = {
        Case("a", 8, 4096): FitChoice(n_ctx=4096, n_gpu_layers=9, overrides=tuple(overrides)),
        Case("a", 8, 16384): None,
    }
    write_record(choices, build="test", path=tmp_path / "record.json")
    assert read_record(tmp_path / "record.json") == choices


def test_a_plan_becomes_options_that_leave_nothing_to_fit() -> None:
    plan = {
        "n_ctx": 4096,
        "n_gpu_layers": 49,
        "n_batch": 2048,
        "n_ubatch": 2048,
        "flash_attn": "auto",
        "kv_type": "q8_0",
        "threads": 8,
        "load_mode": "none",
        "tensor_overrides": [{"pattern": "a", "buffer": "CPU"}, {"pattern": "b", "buffer": "CPU"}],
    }
    options = plan_options(plan)
    pairs = dict(zip(options[::2], options[1::2], strict=True))
    assert pairs["--fit"] == "off"
    assert (pairs["-ot"], pairs["-ctk"], pairs["-ub"], pairs["-lm"]) == (
        "a=CPU,b=CPU",
        "q8_0",
        "2048",
        "none",
    )


def test_a_finished_measurement_is_found_again_and_tabled(tmp_path: Path) -> None:
    result = Result(
        model="m", card_mib=8192, n_ctx=4096, placement="--fit", n_prompt=512,
        prefill_tps=100.0, decode_tps=10.0, event="", about="",
    )  # fmt: skip
    Results(tmp_path / "results.jsonl").add([result])
    results = Results(tmp_path / "results.jsonl")
    assert results.has("m", 8192, 4096, "--fit")
    assert not results.has("m", 8192, 4096, "edgeapp, chat")
    assert table(results.all).splitlines()[-1] == "| m | 8 GiB | 4096 | --fit | 100 | 10.0 |  |"

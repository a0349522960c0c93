from __future__ import annotations

import re
from dataclasses import replace

import pytest

from edgeapp.placement.explain import rate, seconds, tokens
from edgeapp.placement.plan import PlacementPlan, plan
from edgeapp.placement.wishes import Wishes, Workload
from tests.placement.made import GIB, NEED, SHAPE, made_machine


def planned(vram_gib: float, wishes: Wishes | None = None) -> PlacementPlan:
    return plan(SHAPE, made_machine(vram_gib), NEED, wishes or Wishes())


def said(placed: PlacementPlan) -> str:
    return " ".join(placed.reasons)


def test_what_a_long_context_costs_is_said_and_what_it_would_take() -> None:
    text = said(planned(12, Wishes(n_ctx=32768)))
    assert "The context of 32768 tokens takes 3.0 GiB." in text
    assert re.search(r"With a context of 4k, \d\.\d GiB more of the weights would be on the GPU\.", text)
    assert "more VRAM everything would fit on the GPU." in text
    assert "With a context" not in said(planned(24, Wishes(n_ctx=32768)))


def test_the_default_context_says_that_the_model_could_have_more() -> None:
    assert "trained for 40960; without --ctx at most 8192" in said(planned(12))
    assert "without --ctx" not in said(planned(12, Wishes(n_ctx=8192)))


def test_more_vram_by_as_much_as_is_said_is_enough() -> None:
    short = planned(12)
    sentence = next(reason for reason in short.reasons if reason.endswith("everything would fit on the GPU."))
    more_gib = float(sentence.split()[1])
    assert planned(12 + more_gib + 0.5).cpu_expert_layers == ()


def test_small_cards_and_pins_are_said() -> None:
    assert "layers compute on the CPU" in said(planned(1.8))
    assert "48 of 48 expert layers in RAM, " in planned(1.8).reason
    assert "The experts are where you put them." in said(planned(12, Wishes(cpu_expert_layers=48)))
    assert "The GPU has too little free memory" in said(planned(0.5))
    assert "No GPU that this engine can use." in said(planned(0))
    assert "The GPU is not used." in said(planned(12, Wishes(use_gpu=False)))


def test_assumed_speeds_are_called_so() -> None:
    guess = replace(made_machine(12), is_measured=False)
    assert "`edgeapp tune` measures them" in plan(SHAPE, guess, NEED, Wishes()).reasons[-1]
    assert "edgeapp tune" not in said(planned(12))


@pytest.mark.parametrize(
    ("vram_gib", "wishes", "bottleneck"),
    [
        (8, Wishes(), "reading experts from host memory"),
        (
            8,
            Wishes(workload=Workload(n_prompt=600, n_answer=1)),
            "copying experts to the GPU while the prompt is read",
        ),
        (0, Wishes(workload=Workload(n_prompt=4000, n_answer=1)), "computing on the CPU"),
        (24, Wishes(workload=Workload(n_prompt=8000, n_answer=1)), "computing on the GPU"),
        (24, Wishes(), "reading weights from GPU memory"),
        (0, Wishes(max_ram_bytes=8 * GIB), "reading weights from the disk again and again"),
    ],
)
def test_the_bottleneck_is_what_takes_longest(vram_gib: float, wishes: Wishes, bottleneck: str) -> None:
    assert planned(vram_gib, wishes).bottleneck == bottleneck


def test_numbers_are_as_short_as_they_can_be() -> None:
    assert [tokens(n) for n in (512, 2048, 32768, 40000)] == ["512", "2k", "32k", "40000"]
    assert [rate(tps) for tps in (0.043, 0.53, 9.96, 38.4)] == ["0.043", "0.53", "10.0", "38"]
    assert [seconds(s) for s in (0.04, 1.14, 62.9, 6000)] == ["0.0 s", "1.1 s", "63 s", "100 min"]

"""What is worth a try: what the user left open and what can matter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeapp.placement.wishes import WORKLOADS, Wishes, Workload
from edgeapp.profiles.tuned import Choices
from edgeapp.tune.candidates import Axis, Cores, axes, describe, lengths
from tests.tune.plans import a_plan

CORES = Cores(physical=8, logical=16)
OFFLOADED = {"device": "CUDA0", "n_gpu_layers": 999, "cpu_expert_layers": tuple(range(12, 48))}


def values(plan: Any, wishes: Wishes | None = None, cores: Cores = CORES) -> dict[str, tuple[Any, ...]]:
    return {axis.field: axis.values for axis in axes(plan, wishes or Wishes(), cores=cores)}


def test_without_a_gpu_threads_and_the_layout_of_weights_are_varied() -> None:
    found = values(a_plan())
    assert found["n_threads"] == (7, 16)
    assert found["repack"] == (False,)
    assert "cpu_expert_layers" not in found


def test_with_experts_in_host_memory_their_number_comes_first() -> None:
    found = values(a_plan(**OFFLOADED))
    assert next(iter(found)) == "cpu_expert_layers"
    assert found["cpu_expert_layers"] == (33, 39)
    assert found["load_mode"] == ("none",)


def test_what_is_wholly_on_the_gpu_has_no_threads_to_choose() -> None:
    assert set(values(a_plan(device="CUDA0", n_gpu_layers=999))) <= {"n_ubatch"}


@pytest.mark.parametrize(
    ("pin", "field"),
    [
        ({"n_threads": 8}, "n_threads"),
        ({"n_ubatch": 512}, "n_ubatch"),
        ({"load_mode": "mmap"}, "load_mode"),
        ({"cpu_expert_layers": 36}, "cpu_expert_layers"),
        ({"cpu_expert_layers": ()}, "cpu_expert_layers"),
    ],
)
def test_what_the_user_pinned_is_not_varied(pin: dict[str, Any], field: str) -> None:
    wishes = Wishes(workload=WORKLOADS["prefill"])
    plan = a_plan(**OFFLOADED, n_ctx=16384)
    assert field in values(plan, wishes)
    assert field not in values(plan, replace(wishes, **pin))


def test_a_micro_batch_that_no_prompt_fills_is_not_tried() -> None:
    short = values(a_plan(**OFFLOADED, n_ctx=16384), Wishes(workload=Workload(n_prompt=200, n_answer=10)))
    assert "n_ubatch" not in short
    long = values(a_plan(**OFFLOADED, n_ctx=16384), Wishes(workload=WORKLOADS["prefill"]))
    assert long["n_ubatch"] == (1024, 2048, 4096)
    narrow = values(a_plan(**OFFLOADED, n_ctx=1024), Wishes(workload=WORKLOADS["prefill"]))
    assert narrow["n_ubatch"] == (1024,)


def test_weights_that_have_no_room_as_copies_are_not_repacked() -> None:
    assert "repack" not in values(a_plan(repack=False))


def test_one_core_is_not_left_without_a_thread() -> None:
    assert "n_threads" not in values(a_plan(n_threads=1), cores=Cores(physical=1, logical=1))


def test_each_value_is_tried_on_top_of_the_best_so_far() -> None:
    axis = Axis(field="n_threads", values=(7, 16))
    found = list(axis.variants(Choices(n_ubatch=2048)))
    assert found == [Choices(n_ubatch=2048, n_threads=7), Choices(n_ubatch=2048, n_threads=16)]


def test_choices_are_told_in_words() -> None:
    assert describe(Choices()) == "as planned"
    everything = Choices(n_ubatch=2048, n_threads=1, load_mode="none", cpu_expert_layers=0, repack=False)
    assert describe(everything) == (
        "experts of 0 layers in RAM, micro-batch 2048, 1 thread, not repacked, read into memory"
    )


@given(
    n_prompt=st.integers(1, 10**6),
    n_answer=st.integers(1, 10**5),
    n_ctx=st.integers(256, 10**6),
    prefill_tps=st.floats(0, 1e6),
)
def test_what_is_measured_fits_the_context_and_is_no_longer_than_the_workload(
    n_prompt: int, n_answer: int, n_ctx: int, prefill_tps: float
) -> None:
    workload = Workload(n_prompt=n_prompt, n_answer=n_answer)
    read, written = lengths(workload, n_ctx=n_ctx, prefill_tps=prefill_tps, spare=64)
    assert read + written + 64 <= n_ctx
    assert 1 <= written <= n_answer
    assert read <= max(n_prompt, 32)

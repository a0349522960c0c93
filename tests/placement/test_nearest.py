from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from edgeapp.errors import NotEnoughMemory
from edgeapp.placement.plan import plan
from edgeapp.placement.wishes import Wishes
from tests.placement.made import GIB, NEED, SHAPE, made_machine

if TYPE_CHECKING:
    from edgeapp.placement.machine import Machine


def refusal(machine: Machine, wishes: Wishes) -> NotEnoughMemory:
    with pytest.raises(NotEnoughMemory) as caught:
        plan(SHAPE, machine, NEED, wishes)
    return caught.value


def test_pinned_experts_that_do_not_fit_name_how_many_have_to_leave() -> None:
    machine, wishes = made_machine(8), Wishes(n_ctx=16384, cpu_expert_layers=10)
    problem = refusal(machine, wishes)
    assert re.fullmatch(
        r"The model with a context of 16384 tokens needs \d+\.\d GiB of GPU memory, 7\.4 GiB may be used\.",
        problem.message,
    )
    found = re.search(r"--cpu-experts (\d+)", problem.hint)
    assert found is not None
    n_layers = int(found[1])
    assert plan(SHAPE, machine, NEED, replace(wishes, cpu_expert_layers=n_layers)).device
    refusal(machine, replace(wishes, cpu_expert_layers=n_layers - 1))


def test_a_context_that_does_not_fit_names_the_largest_that_does_and_the_kv_type_that_would() -> None:
    machine, wishes = made_machine(8), Wishes(n_ctx=40960, cpu_expert_layers=36)
    problem = refusal(machine, wishes)
    found = re.search(r"--ctx (\d+); --kv (\w+)", problem.hint)
    assert found is not None
    n_ctx = int(found[1])
    assert plan(SHAPE, machine, NEED, replace(wishes, n_ctx=n_ctx)).n_ctx == n_ctx
    refusal(machine, replace(wishes, n_ctx=n_ctx + 256))
    assert found[2] == "q5_1"
    assert plan(SHAPE, machine, NEED, replace(wishes, kv_type="q5_1")).n_ctx == 40960
    refusal(machine, replace(wishes, kv_type="q8_0"))


def test_too_little_ram_names_what_would_be_enough() -> None:
    machine, wishes = made_machine(), Wishes(n_ctx=40960, max_ram_bytes=3 * GIB)
    problem = refusal(machine, wishes)
    assert "of memory, 3.0 GiB may be used" in problem.message
    found = re.search(r"--max-ram ([\d.]+)G", problem.hint)
    assert found is not None
    enough = int(float(found[1]) * GIB)
    assert plan(SHAPE, machine, NEED, replace(wishes, max_ram_bytes=enough)).ram.total <= enough


@pytest.mark.parametrize(
    ("wishes", "hint"),
    [
        (Wishes(load_mode="none", max_ram_bytes=8 * GIB), "--load-mode mmap"),
        (Wishes(cache_ram_bytes=6 * GIB, max_ram_bytes=6 * GIB), "--cache-ram 0"),
        (Wishes(n_ubatch=8192, n_ctx=40960, max_ram_bytes=7 * GIB), "--ubatch 2048"),
    ],
)
def test_whatever_was_pinned_too_high_is_named(wishes: Wishes, hint: str) -> None:
    assert hint in refusal(made_machine(), wishes).hint

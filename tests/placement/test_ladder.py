from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings

from edgeapp.errors import NotEnoughMemory, UsageError
from edgeapp.placement.compute_need import ComputeNeed
from edgeapp.placement.ladder import MAX_STEPS, ladder
from edgeapp.placement.machine import Machine  # noqa: TC001 - hypothesis reads the annotations
from edgeapp.placement.plan import PlacementPlan, plan
from edgeapp.placement.shape import ModelShape  # noqa: TC001 - hypothesis reads the annotations
from edgeapp.placement.wishes import WORKLOADS, Wishes
from tests.placement.made import NEED, SHAPE, made_machine
from tests.placement.test_plan import MACHINES, SHAPES, WISHES

PREFILL = WORKLOADS["prefill"]


def steps(machine: Machine, wishes: Wishes) -> list[PlacementPlan]:
    made = plan(SHAPE, machine, NEED, wishes)
    return [made, *ladder(SHAPE, machine, NEED, wishes, made)]


def test_the_micro_batch_goes_first_then_experts_then_what_is_kept_aside() -> None:
    first, second, third, fourth = steps(made_machine(12), Wishes(workload=PREFILL))
    assert (first.n_ubatch, second.n_ubatch) == (4096, 512)
    assert second.cpu_expert_layers == first.cpu_expert_layers
    assert len(third.cpu_expert_layers) > len(second.cpu_expert_layers)
    assert (fourth.cache_ram_bytes, fourth.load_mode) == (0, "mmap")


def test_the_kv_type_shrinks_only_with_permission() -> None:
    wishes = Wishes(workload=PREFILL, may_quantise_kv=True)
    assert [one.kv_type for one in steps(made_machine(12), wishes)] == ["f16", "f16", "f16", "q8_0"]
    assert {one.kv_type for one in steps(made_machine(12), Wishes())} == {"f16"}


def test_pins_stay() -> None:
    wishes = Wishes(n_ubatch=2048, cpu_expert_layers=48, n_ctx=16384, load_mode="none")
    for one in steps(made_machine(12), wishes):
        assert (one.n_ubatch, one.n_ctx, one.load_mode) == (2048, 16384, "none")
        assert one.cpu_expert_layers == tuple(range(48))


def test_on_the_cpu_there_is_little_to_give_up() -> None:
    found = steps(made_machine(), Wishes(n_parallel=4))
    assert [one.n_ubatch for one in found] == [512, 256, 256]
    assert [one.n_parallel for one in found] == [4, 4, 1]


@settings(max_examples=30, deadline=None)
@given(shape=SHAPES, machine=MACHINES, wishes=WISHES)
def test_every_step_takes_less_and_keeps_the_context(
    shape: ModelShape, machine: Machine, wishes: Wishes
) -> None:
    need = ComputeNeed.assumed(shape)
    try:
        made = plan(shape, machine, need, wishes)
    except (NotEnoughMemory, UsageError):
        return
    found = ladder(shape, machine, need, wishes, made)
    assert len(found) <= MAX_STEPS
    for before, after in pairwise((made, *found)):
        assert after.n_ctx == made.n_ctx
        assert after != before
        assert after.vram.total <= before.vram.total
        assert wishes.cpu_expert_layers is None or after.cpu_expert_layers == before.cpu_expert_layers


def test_a_plan_from_other_facts_gets_a_ladder_too() -> None:
    made = plan(SHAPE, made_machine(8), NEED, Wishes())
    found = ladder(SHAPE, made_machine(12), NEED, Wishes(), made)
    assert found[0].cpu_expert_layers == made.cpu_expert_layers


@pytest.mark.parametrize("vram_gib", [3, 6, 12, 24])
def test_moving_weights_frees_half_a_gibibyte_at_least(vram_gib: int) -> None:
    found = steps(made_machine(vram_gib), Wishes(n_ubatch=512))
    assert found[0].vram.total - found[1].vram.total >= min(512 << 20, found[0].vram.total)

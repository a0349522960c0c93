from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from edgeapp.errors import UsageError
from edgeapp.placement.compute_need import ComputeNeed, ComputePoint
from edgeapp.placement.machine import Machine  # noqa: TC001 - hypothesis reads the annotations
from edgeapp.placement.problem import Problem, make_problem
from edgeapp.placement.search import best, best_with, make_setting
from edgeapp.placement.shape import ModelShape  # noqa: TC001 - hypothesis reads the annotations
from edgeapp.placement.wishes import Wishes
from tests.placement.made import MIB, NEED, SHAPE, made_machine
from tests.placement.test_plan import MACHINES, SHAPES, WISHES


def seconds_of_all(problem: Problem) -> list[float]:
    """Every way with every setting that fits, none left out."""
    found = []
    for kv_type in problem.kv_types():
        for n_ubatch in problem.n_ubatches():
            for load_mode in problem.load_modes():
                setting = make_setting(problem, n_ubatch=n_ubatch, kv_type=kv_type, load_mode=load_mode)
                for split in problem.splits():
                    need = setting.need(split)
                    if setting.fits(split, need) and (split.uses_device or n_ubatch <= 512):
                        found.append(setting.request_parts(split, need).total_s)
    return found


@settings(max_examples=30, deadline=None)
@given(shape=SHAPES, machine=MACHINES, wishes=WISHES, sync_s=st.floats(0, 0.01))
def test_nothing_that_fits_is_faster_than_what_is_found(
    shape: ModelShape, machine: Machine, wishes: Wishes, sync_s: float
) -> None:
    if machine.device is not None:
        machine = replace(machine, device=replace(machine.device, sync_s=sync_s))
    wishes = replace(wishes, may_quantise_kv=False, n_ubatch=min(wishes.n_ubatch, 512))
    try:
        problem = make_problem(shape, machine, ComputeNeed.assumed(shape), wishes)
    except UsageError:
        return
    found, every_s = best(problem), seconds_of_all(problem)
    assert (found is None) == (not every_s)
    if found is not None:
        assert found.request_s <= min(every_s) * (1 + 1e-9)


def test_ways_that_cannot_pay_are_not_looked_at() -> None:
    problem = make_problem(SHAPE, made_machine(12), NEED, Wishes())
    setting = make_setting(problem, n_ubatch=512, kv_type="f16", load_mode="none")
    ways = problem.splits()
    found = best_with(setting, ways)
    assert found is not None
    assert setting.device_is_faster
    first_that_fits = next(split for split in ways if setting.fits(split, setting.need(split)))
    assert found.split == first_that_fits


def test_where_changing_sides_is_dear_the_fewest_changes_win() -> None:
    """Only the output stays on the GPU: one change for a token, and it is large."""
    machine = made_machine(12)
    assert machine.device is not None
    slow = replace(machine, device=replace(machine.device, sync_s=0.005))
    found = best(make_problem(SHAPE, slow, NEED, Wishes()))
    assert found is not None
    assert (found.split.uses_device, found.split.cpu_layers, found.split.n_stops) == (True, 48, 1)


def test_between_the_probed_extremes_compute_buffers_are_those_of_the_larger() -> None:
    """Probes of eight models: half of the experts in host memory needs what all or none of them need."""
    probed = [
        ComputePoint(n_ctx=8192, n_ubatch=512, experts_on_cpu=on_cpu, device_bytes=device, host_bytes=host)
        for on_cpu, device, host in ((False, 100 * MIB, 10 * MIB), (True, 60 * MIB, 90 * MIB))
    ]
    problem = make_problem(SHAPE, made_machine(12), ComputeNeed.from_probes(probed), Wishes())
    setting = make_setting(problem, n_ubatch=512, kv_type="f16", load_mode="none")
    ways = problem.splits()
    needs = [setting.need(split) for split in ways]
    compute = [(need.device_compute // MIB, need.host_compute // MIB) for need in needs]
    every_expert = next(n for n, split in enumerate(ways) if split.cpu_layers) - 1
    assert compute[0] == (100, 10)
    assert set(compute[1:every_expert]) == {(100, 90)}
    assert compute[every_expert] == (60, 90)
    assert set(compute[every_expert + 1 : -1]) == {(100 + 8 + 20, 190)}, "rows handed over and a layer's copy"
    assert compute[-1] == (0, 110)

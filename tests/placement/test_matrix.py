"""Every shape on cards of 6 to 24 GiB with contexts of 4k to 64k: llama.cpp itself checks the plans.

The peer is llama.cpp's `--fit` at the same budget and context, measured with our price list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgeapp.placement.problem import make_problem
from tests.fake_gpu import fake_gpu
from tests.model_shapes import SHAPES
from tests.placement.fit_cost import fit_candidate
from tests.placement.matrix import (
    DEVICE,
    Needs,
    as_placement,
    cases,
    checked,
    machine,
    planned,
    probe_needs,
    read_shapes,
    wishes,
)
from tests.placement.recorded_fit import VRAM_GIB, Case, FitChoice, read_record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edgeapp.placement.plan import PlacementPlan
    from edgeapp.placement.search import Candidate
    from edgeapp.placement.shape import ModelShape
    from tests.fake_gpu import FakeGpu
    from tests.native.memory_breakdown import Use

_LEAST_PREFILL_GAIN = 1.3
_COPYING_SHARE = 0.3
"""Of `--fit`'s prefill must be copies of experts: with less of it no placement can gain so much."""
_PADDING_BYTES = 1 << 20
"""Between tensors of a buffer, all together."""


@pytest.fixture(scope="module")
def device() -> Iterator[FakeGpu]:
    with fake_gpu(total_mib=max(VRAM_GIB) * 1024) as gpu:
        yield gpu


@pytest.fixture(scope="module")
def shapes(shape_files: dict[str, Path]) -> dict[str, ModelShape]:
    return read_shapes(shape_files)


@pytest.fixture(scope="module")
def needs(shape_files: dict[str, Path], shapes: dict[str, ModelShape], device: FakeGpu) -> Iterator[Needs]:
    with pytest.MonkeyPatch.context() as environment:
        for name, value in device.environment.items():
            environment.setenv(name, value)
        yield probe_needs(shape_files, shapes)


@pytest.fixture(scope="module")
def plans(shapes: dict[str, ModelShape], needs: Needs) -> dict[Case, PlacementPlan]:
    return {
        case: planned(case, shapes[name], needs[name, case.n_ctx]) for name in SHAPES for case in cases(name)
    }


@pytest.fixture(scope="module")
def uses(
    shape_files: dict[str, Path],
    shapes: dict[str, ModelShape],
    breakdown_shim: Path,
    device: FakeGpu,
    plans: dict[Case, PlacementPlan],
) -> dict[Case, dict[str, Use] | None]:
    """What llama.cpp says about each shape's plans for two of the cards."""
    sample = [case for number, name in enumerate(SHAPES) for case in cases(name) if _is_checked(number, case)]
    placements = [as_placement(shape_files[case.shape], shapes[case.shape], plans[case]) for case in sample]
    return dict(zip(sample, checked(breakdown_shim, device.endpoint, placements), strict=True))


def _is_checked(number: int, case: Case) -> bool:
    """Other shapes have other cards, so that every card has its turn."""
    place = VRAM_GIB.index(case.vram_gib)
    return place in {number % len(VRAM_GIB), (number + 2) % len(VRAM_GIB)}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_no_plan_takes_more_than_its_budget(
    name: str, plans: dict[Case, PlacementPlan], uses: dict[Case, dict[str, Use] | None]
) -> None:
    for case in (case for case in uses if case.shape == name):
        use = uses[case]
        assert use is not None, f"llama.cpp refuses {case}"
        assert use[DEVICE].total <= plans[case].vram.budget, case
        assert use[DEVICE].total <= plans[case].vram.total + _PADDING_BYTES, case


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_weights_and_kv_are_what_llama_cpp_allocates(
    name: str, plans: dict[Case, PlacementPlan], uses: dict[Case, dict[str, Use] | None]
) -> None:
    for case in (case for case in uses if case.shape == name):
        use, made = uses[case], plans[case]
        assert use is not None
        assert (use[DEVICE].kv, use["CPU"].kv) == (made.vram.kv, made.ram.kv), case
        assert abs(use[DEVICE].weights - made.vram.weights) < _PADDING_BYTES, case


@pytest.mark.slow
def test_contexts_are_kept_and_budgets_too_by_our_own_account(plans: dict[Case, PlacementPlan]) -> None:
    for case, made in plans.items():
        assert made.n_ctx == case.n_ctx
        assert made.vram.total <= made.vram.budget
        assert made.vram.budget == (case.vram_gib - 1) * 1024**3


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_more_vram_is_never_predicted_slower(name: str, plans: dict[Case, PlacementPlan]) -> None:
    for n_ctx in {case.n_ctx for case in cases(name)}:
        times_s = [plans[Case(name, vram_gib, n_ctx)].predicted.request_s for vram_gib in VRAM_GIB]
        assert times_s == sorted(times_s, reverse=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_a_plan_is_never_slower_than_what_fit_chooses(
    name: str, shapes: dict[str, ModelShape], needs: Needs, plans: dict[Case, PlacementPlan]
) -> None:
    for case, choice in _recorded(name):
        theirs = _theirs(case, choice, shapes, needs, "chat")
        assert plans[case].predicted.request_s <= theirs.request_s * 1.001, case


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_a_long_prompt_is_read_faster_than_with_fit_when_experts_are_in_ram(
    name: str, shapes: dict[str, ModelShape], needs: Needs
) -> None:
    for case, choice in _recorded(name):
        made = planned(case, shapes[name], needs[name, case.n_ctx], "prefill")
        theirs = _theirs(case, choice, shapes, needs, "prefill").prefill
        has_to_gain = made.cpu_expert_layers and theirs.copying > theirs.total_s * _COPYING_SHARE
        assert theirs.total_s >= made.predicted.ttft_s * (_LEAST_PREFILL_GAIN if has_to_gain else 1), case


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_fit_keeps_the_context_too_when_it_is_asked_for(name: str) -> None:
    assert all(choice.n_ctx == case.n_ctx for case, choice in _recorded(name))


def _recorded(name: str) -> list[tuple[Case, FitChoice]]:
    """Leave out where `--fit` gave up."""
    record = read_record()
    found = [(case, record[case]) for case in cases(name)]
    return [(case, choice) for case, choice in found if choice is not None]


def _theirs(
    case: Case, choice: FitChoice, shapes: dict[str, ModelShape], needs: Needs, workload: str
) -> Candidate:
    asked = wishes(case.n_ctx, workload)
    need = needs[case.shape, case.n_ctx]
    problem = make_problem(shapes[case.shape], machine(case.vram_gib), need, asked)
    return fit_candidate(case.shape, choice, problem)

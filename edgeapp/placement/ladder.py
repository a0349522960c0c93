"""What to try when a planned load runs out of memory all the same. Pure.

At most three steps, each below the one before: a smaller micro-batch, which only slows prefill down; more
weights in host memory; a smaller KV type, if the wishes allow it; one answer at a time with nothing kept
aside. Whatever the user pinned stays, the context above all.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgeapp.placement.cache_bytes import can_store
from edgeapp.placement.overrides import tensor_overrides
from edgeapp.placement.plan import assemble
from edgeapp.placement.problem import make_problem
from edgeapp.placement.search import Candidate, make_setting

if TYPE_CHECKING:
    from edgeapp.placement.compute_need import ComputeNeed
    from edgeapp.placement.machine import Machine
    from edgeapp.placement.plan import PlacementPlan
    from edgeapp.placement.problem import Problem
    from edgeapp.placement.shape import ModelShape
    from edgeapp.placement.split import Split
    from edgeapp.placement.wishes import Wishes

MAX_STEPS = 3
SMALLER_UBATCHES = (512, 256, 128)
FREED_BYTES = 512 * 1024**2
"""A step that moves weights frees at least this …"""
FREED_SHARE = 0.06
"""… and at least this part of what was to be on the GPU."""


def ladder(
    shape: ModelShape, machine: Machine, compute: ComputeNeed, wishes: Wishes, plan: PlacementPlan
) -> tuple[PlacementPlan, ...]:
    """Return what to load instead of `plan`, in this order, each with less memory."""
    problem = make_problem(shape, machine, compute, wishes)
    step = _candidate_of(problem, plan)
    steps = []
    for descend in (_smaller_ubatch, _more_in_ram, _smaller_kv, _alone, _more_in_ram):
        lower = descend(step)
        if lower is not None:
            step = lower
            steps.append(assemble(step, cache_ram_bytes=_cache_of(step, plan)))
    return tuple(steps[:MAX_STEPS])


def _candidate_of(problem: Problem, plan: PlacementPlan) -> Candidate:
    ways = problem.splits()
    split = next((split for split in ways if _is_of(problem, split, plan)), ways[0])
    setting = make_setting(problem, n_ubatch=plan.n_ubatch, kv_type=plan.kv_type, load_mode=plan.load_mode)
    return Candidate(setting=setting, split=split, need=setting.need(split))


def _is_of(problem: Problem, split: Split, plan: PlacementPlan) -> bool:
    overrides = tensor_overrides(split, problem.shape.expert_layers)
    n_cpu_layers = len(problem.shape.layers) + 1 - plan.n_gpu_layers
    return (
        split.uses_device == bool(plan.device)
        and overrides == plan.tensor_overrides
        and (not split.uses_device or split.cpu_layers == n_cpu_layers)
    )


def _smaller_ubatch(step: Candidate) -> Candidate | None:
    setting = step.setting
    if setting.problem.wishes.n_ubatch:
        return None
    smaller = next((one for one in SMALLER_UBATCHES if one < setting.n_ubatch), None)
    return None if smaller is None else _changed(step, n_ubatch=smaller)


def _more_in_ram(step: Candidate) -> Candidate | None:
    """Move on along the ways to divide until enough is freed; the last is the CPU alone."""
    if not step.split.uses_device:
        return None
    ways = step.setting.problem.splits()
    at = next((n for n, way in enumerate(ways) if way == step.split), len(ways))
    aim = step.need.device_bytes - max(FREED_BYTES, int(FREED_SHARE * step.need.device_bytes))
    lower = [(way, step.setting.need(way)) for way in ways[at + 1 :]]
    smaller = (way for way, need in lower if need.device_bytes <= aim)
    chosen = next(smaller, lower[-1][0] if lower else None)
    return None if chosen is None else _changed(step, split=chosen)


def _smaller_kv(step: Candidate) -> Candidate | None:
    problem = step.setting.problem
    is_allowed = problem.wishes.may_quantise_kv and problem.wishes.kv_type is None
    if not is_allowed or step.setting.kv_type != "f16" or not can_store(problem.shape, "q8_0"):
        return None
    setting = make_setting(
        problem, n_ubatch=step.setting.n_ubatch, kv_type="q8_0", load_mode=step.setting.load_mode
    )
    return Candidate(setting=setting, split=step.split, need=setting.need(step.split))


def _alone(step: Candidate) -> Candidate | None:
    """One answer at a time, and weights that the kernel may drop where they were page-locked."""
    problem = step.setting.problem
    alone = replace(problem, wishes=replace(problem.wishes, n_parallel=1, cache_ram_bytes=0))
    load_mode = problem.wishes.load_mode or "mmap"
    if alone == problem and load_mode == step.setting.load_mode:
        return None
    setting = make_setting(
        alone, n_ubatch=step.setting.n_ubatch, kv_type=step.setting.kv_type, load_mode=load_mode
    )
    return Candidate(setting=setting, split=step.split, need=setting.need(step.split))


def _changed(step: Candidate, *, n_ubatch: int | None = None, split: Split | None = None) -> Candidate:
    """Return `step` with a change; weights that no longer fit as private memory are mapped."""
    old = step.setting
    setting = make_setting(
        old.problem, n_ubatch=n_ubatch or old.n_ubatch, kv_type=old.kv_type, load_mode=old.load_mode
    )
    split = split or step.split
    need = setting.need(split)
    if need.is_private and not setting.fits(split, need) and old.problem.wishes.load_mode is None:
        setting = make_setting(old.problem, n_ubatch=setting.n_ubatch, kv_type=old.kv_type, load_mode="mmap")
    return Candidate(setting=setting, split=split, need=setting.need(split))


def _cache_of(step: Candidate, plan: PlacementPlan) -> int:
    return min(plan.cache_ram_bytes, assemble(step).cache_ram_bytes)

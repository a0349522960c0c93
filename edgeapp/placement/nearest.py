"""When no placement keeps every wish: say what is missing, and the nearest wishes that can be kept. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgeapp.errors import NotEnoughMemory
from edgeapp.placement.cache_bytes import CTX_STEP, KV_TYPES, can_store
from edgeapp.placement.explain import gib
from edgeapp.placement.problem import UBATCHES
from edgeapp.placement.search import best_with, make_setting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeapp.placement.problem import Problem
    from edgeapp.placement.search import Need, Setting
    from edgeapp.placement.split import Split

SMALLEST_UBATCH = 128


def impossible(problem: Problem) -> NotEnoughMemory:
    """Return the error for a problem without solution; its hint lists wishes that would do."""
    need, is_vram = _closest(problem)
    wished = _wished_cache(problem)
    needed = need.device_bytes if is_vram else need.private_host_bytes + wished
    budget = problem.vram_budget_bytes if is_vram else problem.ram_budget_bytes
    kind = "GPU memory" if is_vram else "memory"
    return NotEnoughMemory(
        f"The model with a context of {problem.n_ctx} tokens needs {gib(needed)} of {kind}, "
        f"{gib(budget)} may be used.",
        needed_bytes=needed,
        free_bytes=budget,
        hint=_hint(problem, kind, needed=needed, is_vram=is_vram),
    )


def _hint(problem: Problem, kind: str, *, needed: int, is_vram: bool) -> str:
    cap = problem.wishes.max_vram_bytes if is_vram else problem.wishes.max_ram_bytes
    budget = "--max-vram" if is_vram else "--max-ram"
    # Rounded up, so that what is printed is enough.
    wanted = f"{-(-needed * 10 // (1 << 30)) / 10:.1f}"
    raised = f"{budget} {wanted}G" if cap is not None else f"{wanted} GiB of free {kind}"
    return f"Would fit: {'; '.join((*_possible_wishes(problem), raised))}."


def _possible_wishes(problem: Problem) -> Iterator[str]:
    if n_ctx := _largest_ctx(problem):
        yield f"--ctx {n_ctx}"
    if (kv_type := _fitting_kv_type(problem)) is not None:
        yield f"--kv {kv_type}"
    if n_layers := _fewest_cpu_experts(problem):
        yield f"--cpu-experts {n_layers}"
    if n_ubatch := _largest_ubatch(problem):
        yield f"--ubatch {n_ubatch}"
    if problem.wishes.load_mode == "none" and _fits(_with(problem, load_mode="mmap")):
        yield "--load-mode mmap"
    if _wished_cache(problem) and _fits(_with(problem, cache_ram_bytes=0)):
        yield "--cache-ram 0"


def _largest_ctx(problem: Problem) -> int:
    """Return the largest context that fits, 0 when none does."""
    low, high = 0, problem.n_ctx // CTX_STEP
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (middle, high) if _fits(replace(problem, n_ctx=middle * CTX_STEP)) else (low, middle)
    return low * CTX_STEP


def _fitting_kv_type(problem: Problem) -> str | None:
    """Return the largest type below the one that did not fit."""
    smallest = problem.kv_types()[-1]
    smaller = KV_TYPES[KV_TYPES.index(smallest) + 1 :]
    storable = (kv_type for kv_type in smaller if can_store(problem.shape, kv_type))
    return next((kv_type for kv_type in storable if _fits(_with(problem, kv_type=kv_type))), None)


def _fewest_cpu_experts(problem: Problem) -> int:
    """Return how many layers' experts have to be in host memory where the user pinned too few; else 0."""
    if problem.pinned_layers is None:
        return 0
    layers = problem.shape.expert_layers
    for n_layers in range(len(problem.pinned_layers) + 1, len(layers) + 1):
        if _fits(replace(problem, pinned_layers=frozenset(layers[-n_layers:]))):
            return n_layers
    return 0


def _largest_ubatch(problem: Problem) -> int:
    if not problem.wishes.n_ubatch:
        return 0
    smaller = [one for one in (SMALLEST_UBATCH, 256, *UBATCHES) if one < problem.n_ubatches()[0]]
    return next((one for one in reversed(smaller) if _fits(_with(problem, n_ubatch=one))), 0)


def _with(problem: Problem, **changes: object) -> Problem:
    return replace(problem, wishes=replace(problem.wishes, **changes))  # type: ignore[arg-type]


def _wished_cache(problem: Problem) -> int:
    return problem.wishes.cache_ram_bytes or 0


def _fits(problem: Problem) -> bool:
    ways = problem.splits()
    return any(best_with(setting, ways) for setting in _settings(problem))


def _settings(problem: Problem) -> Iterator[Setting]:
    """The settings that take least, for each load mode: nothing else has to be tried to know what fits."""
    n_ubatch, kv_type = problem.n_ubatches()[0], problem.kv_types()[-1]
    for load_mode in problem.load_modes():
        yield make_setting(problem, n_ubatch=n_ubatch, kv_type=kv_type, load_mode=load_mode)


def _closest(problem: Problem) -> tuple[Need, bool]:
    """Return the need of the placement that misses its budget least, and whether that is the GPU's."""
    missing = [
        (*_missing(problem, split, need), need)
        for setting in _settings(problem)
        for split in problem.splits()
        for need in [setting.need(split)]
    ]
    _, is_vram, need = min(missing, key=lambda one: one[0])
    return need, is_vram


def _missing(problem: Problem, split: Split, need: Need) -> tuple[int, bool]:
    vram = max(need.device_bytes - problem.vram_budget_bytes, 0) if split.uses_device else 0
    ram = max(need.private_host_bytes + _wished_cache(problem) - problem.ram_budget_bytes, 0)
    return vram + ram, vram >= ram

"""What is worth a try for a model: one choice after the other, each varied from the best so far.

Pure: knows the plan and the machine's cores, no engine. Choices that the user pinned are never varied, and
none is tried that could not matter: threads where the CPU computes nothing, a micro-batch that no prompt of
the workload fills.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from msgspec.structs import replace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeapp.placement.plan import PlacementPlan
    from edgeapp.placement.wishes import Wishes, Workload
    from edgeapp.profiles.tuned import Choices

UBATCHES = (512, 1024, 2048, 4096)
"""With experts in host memory a micro-batch uploads them once: published for gpt-oss-120b on an RTX 3090 are
380, 1113 and 1682 tokens/s of prefill at 512, 2048 and 4096."""
_MAX_DECODED = 64
"""Tokens that are written to measure the rate: more do not change it while the context is short."""
_MAX_PREFILL_S = 8.0
_MIN_PROMPT = 32


@dataclass(frozen=True, kw_only=True)
class Cores:
    """Of this machine, as this process may use them."""

    physical: int
    logical: int


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One choice and the values that it may take beside the planned one."""

    field: Literal["cpu_expert_layers", "n_ubatch", "load_mode", "n_threads", "repack"]
    values: tuple[int | str | bool, ...]

    def variants(self, best: Choices) -> Iterator[Choices]:
        """Yield `best` with each of the values."""
        for value in self.values:
            yield replace(best, **{self.field: value})


def axes(plan: PlacementPlan, wishes: Wishes, *, cores: Cores) -> tuple[Axis, ...]:
    """Return what is varied, the choice that moves most first."""
    found = (
        Axis(field="cpu_expert_layers", values=_cpu_expert_layers(plan, wishes)),
        Axis(field="n_ubatch", values=_ubatches(plan, wishes)),
        Axis(field="n_threads", values=_threads(plan, wishes, cores)),
        Axis(field="repack", values=(False,) if plan.repack and _cpu_computes(plan) else ()),
        Axis(field="load_mode", values=_load_modes(plan, wishes)),
    )
    return tuple(axis for axis in found if axis.values)


def describe(choices: Choices) -> str:
    """Say what differs from the plan: "2048 tokens a micro-batch, 7 threads"; "as planned" for nothing."""
    parts = (
        choices.cpu_expert_layers is not None and f"experts of {choices.cpu_expert_layers} layers in RAM",
        choices.n_ubatch and f"micro-batch {choices.n_ubatch}",
        choices.n_threads and f"{choices.n_threads} thread{'s' * (choices.n_threads > 1)}",
        choices.repack is not None and ("repacked" if choices.repack else "not repacked"),
        choices.load_mode and ("mapped" if choices.load_mode == "mmap" else "read into memory"),
    )
    return ", ".join(part for part in parts if part) or "as planned"


def lengths(workload: Workload, *, n_ctx: int, prefill_tps: float, spare: int) -> tuple[int, int]:
    """Return how many tokens a try reads and writes: of the workload, what the context and the time allow.

    A prompt takes about `_MAX_PREFILL_S` at the predicted `prefill_tps`, but fills a micro-batch.
    """
    room = max(n_ctx - spare, 2 * _MIN_PROMPT)
    n_decode = max(1, min(workload.n_answer, _MAX_DECODED, room // 4))
    in_time = max(int(prefill_tps * _MAX_PREFILL_S), UBATCHES[0])
    n_prompt = min(workload.n_prompt, in_time, room - n_decode)
    return max(n_prompt, _MIN_PROMPT), n_decode


def _cpu_computes(plan: PlacementPlan) -> bool:
    return not plan.device or bool(plan.cpu_expert_layers or plan.cpu_layers)


def _cpu_expert_layers(plan: PlacementPlan, wishes: Wishes) -> tuple[int, ...]:
    """Return some numbers of layers around the planned one; the planner refuses what does not fit."""
    planned = len(plan.cpu_expert_layers)
    if not plan.device or not planned or wishes.cpu_expert_layers is not None:
        return ()
    step = max(1, planned // 12)
    return tuple(n for n in (planned - step, planned + step) if n >= 0)


def _ubatches(plan: PlacementPlan, wishes: Wishes) -> tuple[int, ...]:
    if wishes.n_ubatch:
        return ()
    useful = max(UBATCHES[0], min(wishes.workload.n_prompt, plan.n_ctx))
    return tuple(n for n in UBATCHES if n != plan.n_ubatch and n <= plan.n_ctx and n < 2 * useful)


def _threads(plan: PlacementPlan, wishes: Wishes, cores: Cores) -> tuple[int, ...]:
    if wishes.n_threads or not _cpu_computes(plan):
        return ()
    tried = (cores.physical, cores.physical - 1, cores.logical)
    return tuple(n for n in dict.fromkeys(tried) if n >= 1 and n != plan.n_threads)


def _load_modes(plan: PlacementPlan, wishes: Wishes) -> tuple[str, ...]:
    if wishes.load_mode or not _cpu_computes(plan):
        return ()
    return ("none",) if plan.load_mode == "mmap" else ("mmap",)

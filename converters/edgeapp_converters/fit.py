"""Choose every tensor's type so that the file keeps within a byte budget and loses as little as possible.

The loss is predicted as Σ weight · relative output error over the tensors: errors of different tensors are
small and independent, so their squares add up, and the divergence grows with the squares. Allocation is the
greedy one along each tensor's convex hull, which is optimal but for the last step (Shoham and Gersho 1988,
Efficient bit allocation for an arbitrary set of quantizers). Knows no machine.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from edgeapp.errors import NotEnoughMemory
from edgeapp_converters import sensitivity
from edgeapp_converters.plan import TypedTensor
from edgeapp_converters.recipe import choose_types, file_bytes, load_recipe

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gguf import GGMLQuantizationType

    from edgeapp_converters.events import Report
    from edgeapp_converters.imatrix import Imatrix
    from edgeapp_converters.plan import ModelPlan, TensorPlan
    from edgeapp_converters.sensitivity import Sensitivity
    from edgeapp_converters.source import TensorSource

Group: TypeAlias = Literal[
    "embedding", "output", "query_key", "value", "attention_output", "gate_up", "down", "other"
]
"""What a tensor does in its layer; its errors reach the logits in a way of its own."""
_GROUPS: tuple[tuple[Group, re.Pattern[str]], ...] = (
    ("embedding", re.compile(r"^(per_layer_)?token_embd\.")),
    ("output", re.compile(r"^output\.")),
    ("query_key", re.compile(r"\.attn_(q|k|q_a|q_b|k_b|kv_a_mqa)\.")),
    ("value", re.compile(r"\.attn_(v|v_b|qkv|kv_b)\.")),
    ("attention_output", re.compile(r"\.attn_output\.")),
    ("gate_up", re.compile(r"\.ffn_(gate|up|gate_up)(_exps|_shexp)?\.")),
    ("down", re.compile(r"\.ffn_down(_exps|_shexp)?\.")),
)
_WEIGHTS: dict[Group, float] = {
    "embedding": 0.7,
    "output": 9.6,
    "query_key": 3.6,
    "value": 3.3,
    "attention_output": 1.6,
    "gate_up": 7.0,
    "down": 3.7,
    "other": 3.6,
}
"""Mean KL divergence per relative error when all tensors of a group have it, in nats.

Measured on the demo Mixture of Experts against F16, one group at a time, with importance matrix, on the
beginnings of four calibration texts, 765 tokens scored; one run, no intervals. The groups of a layer had
IQ4_XS (relative errors of 0.003 to 0.008); with Q3_K the two large ones gave 7.0 and 3.7 again, so the
divergence does grow with the error. `output` is the step from Q6_K to Q4_K of the demo's tied matrix; what
any quantised type costs beside it, because activations are rounded too, is the same for all and left out.
`embedding` is from a copy with an output matrix of its own. `other` was not measured and is as `query_key`.
The demo's dense weights were four-bit already: on other models the ratios may differ.
"""
_UNMEASURED_RECIPE = "q8_0"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A type that a tensor may have: what it takes and what it loses."""

    kind: GGMLQuantizationType
    n_bytes: int
    loss: float


def fit_types(
    plan: ModelPlan,
    source: TensorSource,
    imatrix: Imatrix | None,
    *,
    budget_bytes: int,
    n_threads: int,
    report: Report,
) -> tuple[TypedTensor, ...]:
    """Return every tensor of `plan` with its type, all together at most `budget_bytes` in the file.

    What cannot be chosen (norms, router, odd rows) is as in the recipe q8_0. Raise `NotEnoughMemory` when
    the smallest choice is larger.
    """
    usual = choose_types(plan, load_recipe(_UNMEASURED_RECIPE), has_imatrix=imatrix is not None)
    fixed_bytes = sum(file_bytes(one) for one in usual if not sensitivity.candidates(one.plan))
    _require_smallest(plan, fixed_bytes, budget_bytes)
    measured = sensitivity.measure(plan.tensors, source, imatrix, n_threads=n_threads, report=report)
    weights = _weights([one.tensor for one in measured])
    options = [choices(one, weight) for one, weight in zip(measured, weights, strict=True)]
    kinds = allocate(options, budget_bytes - fixed_bytes)
    chosen = {one.tensor.name: kind for one, kind in zip(measured, kinds, strict=True)}
    return tuple(_typed(one, chosen) for one in usual)


def choices(measured: Sensitivity, weight: float) -> tuple[Choice, ...]:
    """Return what the tensor may be, with its loss in the whole model."""
    return tuple(
        Choice(kind=kind, n_bytes=_n_bytes(measured.tensor, kind), loss=weight * error)
        for kind, error in measured.errors.items()
    )


def convex_hull(options: Iterable[Choice]) -> tuple[Choice, ...]:
    """Return the choices, smallest first, from each of which the next gains less per byte than the last."""
    hull: list[Choice] = []
    for option in sorted(options, key=lambda option: (option.n_bytes, option.loss)):
        if hull and option.loss >= hull[-1].loss:
            continue
        while len(hull) > 1 and _gain(hull[-1], option) >= _gain(hull[-2], hull[-1]):
            hull.pop()
        hull.append(option)
    return tuple(hull)


def allocate(options: Sequence[Iterable[Choice]], budget_bytes: int) -> tuple[GGMLQuantizationType, ...]:
    """Return one type for each tensor, in order; together at most `budget_bytes`, if the smallest are.

    Always the step that gains most per byte; a step that does not fit any more ends that tensor's climb.
    """
    hulls = [convex_hull(each) for each in options]
    levels = [0] * len(hulls)
    left_bytes = budget_bytes - sum(hull[0].n_bytes for hull in hulls)
    steps = [(-_gain(hull[0], hull[1]), index) for index, hull in enumerate(hulls) if len(hull) > 1]
    heapq.heapify(steps)
    while steps:
        _, index = heapq.heappop(steps)
        hull, level = hulls[index], levels[index]
        step_bytes = hull[level + 1].n_bytes - hull[level].n_bytes
        if step_bytes > left_bytes:
            continue
        left_bytes -= step_bytes
        levels[index] = level = level + 1
        if level + 1 < len(hull):
            heapq.heappush(steps, (-_gain(hull[level], hull[level + 1]), index))
    return tuple(hull[level].kind for hull, level in zip(hulls, levels, strict=True))


def _gain(smaller: Choice, larger: Choice) -> float:
    """How much loss one more byte saves."""
    return (smaller.loss - larger.loss) / max(larger.n_bytes - smaller.n_bytes, 1)


def group_of(name: str) -> Group:
    """Return what the tensor of that GGUF name does in its layer."""
    return next((group for group, pattern in _GROUPS if pattern.search(name)), "other")


def _weights(tensors: Sequence[TensorPlan]) -> list[float]:
    """Return for each tensor the divergence for a relative error of one: its group's, shared by the group."""
    groups = [group_of(tensor.name) for tensor in tensors]
    counts = Counter(groups)
    if not counts["output"]:  # tied: the embedding is the output matrix as well
        groups = ["output" if group == "embedding" else group for group in groups]
        counts = Counter(groups)
    return [_WEIGHTS[group] / counts[group] for group in groups]


def _n_bytes(tensor: TensorPlan, kind: GGMLQuantizationType) -> int:
    return file_bytes(TypedTensor(plan=tensor, type=kind, wanted=kind))


def _require_smallest(plan: ModelPlan, fixed_bytes: int, budget_bytes: int) -> None:
    smallest_bytes = fixed_bytes + sum(
        min(_n_bytes(tensor, kind) for kind in kinds)
        for tensor in plan.tensors
        if (kinds := sensitivity.candidates(tensor))
    )
    if smallest_bytes > budget_bytes:
        raise NotEnoughMemory(
            f"The smallest file is {smallest_bytes / 1024**3:.2f} GiB, "
            f"{max(budget_bytes, 0) / 1024**3:.2f} GiB are there for it.",
            needed_bytes=smallest_bytes,
            free_bytes=budget_bytes,
            hint="Give more with --max-vram or --max-ram, or convert a smaller model.",
        )


def _typed(usual: TypedTensor, chosen: Mapping[str, GGMLQuantizationType]) -> TypedTensor:
    kind = chosen.get(usual.plan.name)
    return usual if kind is None else TypedTensor(plan=usual.plan, type=kind, wanted=kind)

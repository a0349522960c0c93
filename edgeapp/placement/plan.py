"""Decide what goes where: context, threads, layers and experts. Pure arithmetic: knows no file and no GPU.

shape.py (the model) · machine.py · wishes.py · compute_need.py (probed) → problem.py (budget.py)
→ split.py (ways to divide) · setting.py (on cache_bytes.py, speed.py) → search.py
→ plan.py (explain.py, overrides.py)
and from a plan: ladder.py, what_if.py; from no plan: nearest.py
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgeapp.placement.budget import DEFAULT_RESERVE_BYTES, default_cache_ram_bytes
from edgeapp.placement.cache_bytes import CTX_STEP
from edgeapp.placement.explain import bottleneck, reasons
from edgeapp.placement.nearest import impossible
from edgeapp.placement.overrides import TensorOverride, expert_overrides, tensor_overrides
from edgeapp.placement.problem import DEFAULT_MAX_CTX, UBATCHES, LoadMode, context_of, make_problem
from edgeapp.placement.search import Candidate, best, n_prompt

if TYPE_CHECKING:
    from edgeapp.placement.compute_need import ComputeNeed
    from edgeapp.placement.machine import Machine
    from edgeapp.placement.shape import ModelShape
    from edgeapp.placement.wishes import KvType, Wishes

__all__ = [
    "COMPUTE_BYTES",
    "CTX_STEP",
    "DEFAULT_MAX_CTX",
    "DEFAULT_RESERVE_BYTES",
    "GPU_RESERVE_BYTES",
    "UBATCHES",
    "LoadMode",
    "MemoryUse",
    "PlacementPlan",
    "Prediction",
    "TensorOverride",
    "assemble",
    "context_of",
    "expert_overrides",
    "plan",
]

GPU_RESERVE_BYTES = DEFAULT_RESERVE_BYTES
COMPUTE_BYTES = 512 * 1024**2
"""Room for compute buffers where nothing was probed; measured at 512 tokens: 97 MiB on 135M, 400 on 30B."""


@dataclass(frozen=True, kw_only=True)
class MemoryUse:
    """Bytes. `total` is everything that counts against `budget`."""

    weights: int
    kv: int
    compute: int
    total: int
    budget: int


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """For the workload that was planned for."""

    decode_tps: float
    prefill_tps: float
    ttft_s: float
    """Until the first token of the workload's prompt."""
    request_s: float
    """Of the whole request: what the planner minimises."""


@dataclass(frozen=True, kw_only=True)
class PlacementPlan:
    """Where the model goes, and what that means."""

    n_ctx: int
    n_gpu_layers: int
    """As llama.cpp counts: from the last layer, the output included."""
    tensor_overrides: tuple[TensorOverride, ...]
    n_ubatch: int
    n_batch: int
    kv_type: KvType
    load_mode: LoadMode
    flash_attn: Literal["auto", "on", "off"]
    n_threads: int
    n_parallel: int
    device: str
    """ggml's name; empty is the CPU alone."""
    cpu_expert_layers: tuple[int, ...]
    """Layers whose routed experts are in host memory, all or in part."""
    cpu_layers: tuple[int, ...]
    """Layers that are in host memory whole, with their KV."""
    cache_ram_bytes: int
    """Most host memory for conversations that had to leave the KV cache."""
    vram: MemoryUse
    ram: MemoryUse
    """Mapped weights count as far as they have room; `paged_bytes` have none."""
    paged_bytes: int
    repack: bool
    """Whether host weights have room as private copies, in the layout that the CPU computes fastest with."""
    predicted: Prediction
    bottleneck: str
    reasons: tuple[str, ...]
    """Sentences for the user, the most telling one first."""

    @property
    def reason(self) -> str:
        return self.reasons[0]


def plan(shape: ModelShape, machine: Machine, compute: ComputeNeed, wishes: Wishes) -> PlacementPlan:
    """Return the placement that answers the workload's request soonest within the budgets.

    Raise `UsageError` for wishes beyond what the model can do, `NotEnoughMemory` with the nearest possible
    wishes when nothing fits.
    """
    problem = make_problem(shape, machine, compute, wishes)
    found = best(problem)
    if found is None:
        raise impossible(problem)
    return assemble(found)


def assemble(candidate: Candidate, *, cache_ram_bytes: int | None = None) -> PlacementPlan:
    """Return `candidate` as a plan; `cache_ram_bytes` None is the wished or the default cache."""
    setting, split = candidate.setting, candidate.split
    problem, n_layers = setting.problem, len(setting.problem.shape.layers)
    cache_bytes = _cache_ram_bytes(candidate) if cache_ram_bytes is None else cache_ram_bytes
    device = problem.device if split.uses_device else None
    return PlacementPlan(
        n_ctx=problem.n_ctx,
        n_gpu_layers=n_layers + 1 - split.cpu_layers if split.uses_device else 0,
        tensor_overrides=tensor_overrides(split, problem.shape.expert_layers),
        n_ubatch=setting.n_ubatch,
        n_batch=setting.n_ubatch,
        kv_type=setting.kv_type,
        load_mode=setting.load_mode,
        flash_attn="auto" if setting.kv_type == "f16" else "on",  # quantised values need it
        n_threads=problem.wishes.n_threads or problem.machine.host.n_threads,
        n_parallel=problem.wishes.n_parallel,
        device=device.name if device else "",
        cpu_expert_layers=split.cpu_expert_layers,
        cpu_layers=tuple(range(split.cpu_layers if split.uses_device else n_layers)),
        cache_ram_bytes=cache_bytes,
        vram=_vram_use(candidate),
        ram=_ram_use(candidate, cache_bytes),
        paged_bytes=candidate.paged_bytes,
        repack=not candidate.paged_bytes,
        predicted=_prediction(candidate),
        bottleneck=bottleneck(candidate),
        reasons=reasons(candidate),
    )


def _vram_use(candidate: Candidate) -> MemoryUse:
    need = candidate.need
    return MemoryUse(
        weights=need.device_weights,
        kv=need.device_kv,
        compute=need.device_compute,
        total=need.device_bytes,
        budget=candidate.setting.problem.vram_budget_bytes,
    )


def _ram_use(candidate: Candidate, cache_bytes: int) -> MemoryUse:
    need = candidate.need
    weights = need.host_weights - candidate.paged_bytes
    return MemoryUse(
        weights=weights,
        kv=need.host_kv,
        compute=need.host_compute,
        total=weights + need.host_kv + need.host_compute + cache_bytes,
        budget=candidate.setting.problem.ram_budget_bytes,
    )


def _cache_ram_bytes(candidate: Candidate) -> int:
    """Return the wished cache, else the default, as far as there is room beside the model."""
    problem, need = candidate.setting.problem, candidate.need
    if problem.wishes.cache_ram_bytes is not None:
        return problem.wishes.cache_ram_bytes
    used = need.host_weights - candidate.paged_bytes + need.host_kv + need.host_compute
    return max(min(default_cache_ram_bytes(problem.machine.host), problem.ram_budget_bytes - used), 0)


def _prediction(candidate: Candidate) -> Prediction:
    prefill_s, decode_s = candidate.prefill.total_s, candidate.decode.total_s
    return Prediction(
        decode_tps=1 / max(decode_s, 1e-9),
        prefill_tps=n_prompt(candidate.setting.problem) / max(prefill_s, 1e-9),
        ttft_s=prefill_s,
        request_s=candidate.request_s,
    )

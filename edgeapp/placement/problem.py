"""What a plan is made from, with the budgets worked out and the choices that the wishes leave. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from edgeapp.errors import UsageError
from edgeapp.placement.budget import check_cache_ram, ram_budget_bytes, vram_budget_bytes
from edgeapp.placement.cache_bytes import can_store, padded_ctx
from edgeapp.placement.split import Split, host_only, splits

if TYPE_CHECKING:
    from edgeapp.placement.compute_need import ComputeNeed
    from edgeapp.placement.machine import DeviceFacts, Machine
    from edgeapp.placement.shape import ModelShape
    from edgeapp.placement.wishes import KvType, Wishes

LoadMode = Literal["mmap", "none"]
"""Mapped pages of the file, or private memory that weights are read into, page-locked where a GPU copies."""
DEFAULT_MAX_CTX = 8192
"""Without --ctx the context is the trained one, but at most this: a KV cache for 128k tokens is gigabytes."""
UBATCHES = (512, 1024, 2048, 4096, 8192)
HOST_UBATCH = 512
"""Larger micro-batches gain nothing where the CPU computes."""
USUAL_MAX_UBATCH = 2048
"""Larger ones only for workloads with longer prompts: their buffers are taken from other programs."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A model, a machine and the wishes. `machine.device` None where the GPU must not be used."""

    shape: ModelShape
    machine: Machine
    compute: ComputeNeed
    wishes: Wishes
    n_ctx: int
    """As llama.cpp rounds it."""
    pinned_layers: frozenset[int] | None
    """Layers whose experts the user put in host memory."""
    vram_budget_bytes: int
    ram_budget_bytes: int

    @property
    def device(self) -> DeviceFacts | None:
        return self.machine.device

    def splits(self) -> list[Split]:
        """Return every division that honours the wishes, most on the GPU first."""
        ways = [] if self.device is None else list(_ways(self.shape, self.pinned_layers))
        leaves_gpu_alone = self.pinned_layers is None or self.pinned_layers >= set(self.shape.expert_layers)
        if self.device is None or leaves_gpu_alone:
            ways.append(host_only(self.shape))
        return ways

    def n_ubatches(self) -> tuple[int, ...]:
        """Return the micro-batches to try, smallest first; never more than the context."""
        if self.wishes.n_ubatch:
            return (min(self.wishes.n_ubatch, self.n_ctx),)
        useful = USUAL_MAX_UBATCH
        while useful < self.wishes.workload.n_prompt:
            useful *= 2
        return tuple(one for one in UBATCHES if one <= min(self.n_ctx, useful)) or (self.n_ctx,)

    def kv_types(self) -> tuple[KvType, ...]:
        """Return the types to try; smaller ones only where the wishes allow them."""
        if self.wishes.kv_type is not None:
            return (self.wishes.kv_type,)
        smaller: tuple[KvType, ...] = ("q8_0", "q4_0") if self.wishes.may_quantise_kv else ()
        return ("f16", *(kv_type for kv_type in smaller if can_store(self.shape, kv_type)))

    def load_modes(self) -> tuple[LoadMode, ...]:
        if self.wishes.load_mode is not None:
            return (self.wishes.load_mode,)
        return ("mmap",) if self.device is None else ("mmap", "none")


@lru_cache(maxsize=4)
def _ways(shape: ModelShape, pinned: frozenset[int] | None) -> tuple[Split, ...]:
    """A table of what-ifs and a ladder ask for the same model again and again."""
    return tuple(splits(shape, pinned))


def make_problem(shape: ModelShape, machine: Machine, compute: ComputeNeed, wishes: Wishes) -> Problem:
    """Raise `UsageError` for wishes that no amount of memory would fulfil."""
    check_cache_ram(machine.host, wishes.cache_ram_bytes)
    if wishes.kv_type is not None and not can_store(shape, wishes.kv_type):
        raise UsageError(
            f"A KV cache in {wishes.kv_type} needs heads of whole blocks; this model's have "
            f"{' and '.join(map(str, shape.head_dims))} values.",
            hint="Use --kv f16.",
        )
    device = machine.device if wishes.use_gpu else None
    return Problem(
        shape=shape,
        machine=replace(machine, device=device),
        compute=compute,
        wishes=wishes,
        n_ctx=context_of(shape, wishes.n_ctx),
        pinned_layers=_pinned_layers(shape, wishes),
        vram_budget_bytes=0 if device is None else vram_budget_bytes(device, wishes),
        ram_budget_bytes=ram_budget_bytes(machine.host, wishes),
    )


def context_of(shape: ModelShape, wanted: int) -> int:
    """Return the context that a plan will have, as llama.cpp rounds it; `wanted` 0 is the default.

    Raise `UsageError` for one beyond the trained.
    """
    trained = shape.n_ctx_train or DEFAULT_MAX_CTX
    if wanted > trained:
        raise UsageError(
            f"The model was trained for {trained} tokens of context, {wanted} were asked for.",
            hint=f"--ctx {trained} is the most it can use.",
        )
    return padded_ctx(wanted or min(trained, DEFAULT_MAX_CTX))


def _pinned_layers(shape: ModelShape, wishes: Wishes) -> frozenset[int] | None:
    pinned = wishes.cpu_expert_layers
    if pinned is None:
        return None
    if isinstance(pinned, int):
        n_from_end = min(pinned, len(shape.expert_layers))
        return frozenset(shape.expert_layers[len(shape.expert_layers) - n_from_end :])
    unknown = sorted(set(pinned) - set(shape.expert_layers))
    if unknown:
        raise UsageError(
            f"Layer {unknown[0]} has no routed experts to put in host memory.",
            hint=_layers_hint(shape.expert_layers),
        )
    return frozenset(pinned)


def _layers_hint(expert_layers: tuple[int, ...]) -> str:
    if not expert_layers:
        return "This model has no experts; leave --cpu-experts out."
    return f"Layers with experts: {expert_layers[0]} to {expert_layers[-1]}."

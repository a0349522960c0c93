"""How the same model would do with other memory, contexts and KV types. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

from edgeapp.errors import NotEnoughMemory
from edgeapp.placement.cache_bytes import can_store, padded_ctx
from edgeapp.placement.plan import plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.placement.compute_need import ComputeNeed
    from edgeapp.placement.machine import Machine
    from edgeapp.placement.plan import PlacementPlan
    from edgeapp.placement.shape import ModelShape
    from edgeapp.placement.wishes import KvType, Wishes

_GIB = 1 << 30
CARD_GIBS = (8, 12, 16, 24)
CTXS = (4096, 16384, 65536)
KV_TYPES: tuple[KvType, ...] = ("f16", "q8_0")


@dataclass(frozen=True, kw_only=True)
class WhatIf:
    """One row: a GPU with `vram_bytes`, all of it free."""

    vram_bytes: int
    n_ctx: int
    kv_type: KvType
    plan: PlacementPlan | None
    """None where that is impossible."""


def what_if(
    shape: ModelShape,
    machine: Machine,
    compute: ComputeNeed,
    wishes: Wishes,
    *,
    card_gibs: Sequence[int] = CARD_GIBS,
    n_ctxs: Sequence[int] = (),
    kv_types: Sequence[KvType] = KV_TYPES,
) -> tuple[WhatIf, ...]:
    """Return a row for every combination, the machine's GPU with other amounts of memory.

    `n_ctxs` empty: `CTXS` as far as the model was trained, and the wished one. No rows without a GPU.
    """
    if machine.device is None:
        return ()
    rows = product(card_gibs, n_ctxs or _contexts(shape, wishes), filter_storable(shape, kv_types))
    return tuple(
        _row(shape, machine, compute, replace(wishes, n_ctx=n_ctx, kv_type=kv_type), gibs * _GIB)
        for gibs, n_ctx, kv_type in rows
    )


def filter_storable(shape: ModelShape, kv_types: Sequence[KvType]) -> list[KvType]:
    """Return the types that this model's heads allow."""
    return [kv_type for kv_type in kv_types if can_store(shape, kv_type)]


def _contexts(shape: ModelShape, wishes: Wishes) -> list[int]:
    wished = [padded_ctx(wishes.n_ctx)] if wishes.n_ctx else []
    trained = shape.n_ctx_train
    usual = [n_ctx for n_ctx in CTXS if n_ctx <= trained] or [trained]
    return sorted({min(n_ctx, trained) for n_ctx in usual + wished})


def _row(
    shape: ModelShape, machine: Machine, compute: ComputeNeed, wishes: Wishes, vram_bytes: int
) -> WhatIf:
    assert machine.device is not None  # noqa: S101 - checked by the caller; rows are about GPUs
    device = replace(machine.device, total_bytes=vram_bytes, free_bytes=vram_bytes)
    wishes = replace(wishes, max_vram_bytes=None, use_gpu=True)
    planned: PlacementPlan | None
    try:
        planned = plan(shape, replace(machine, device=device), compute, wishes)
    except NotEnoughMemory:
        planned = None
    kv_type = wishes.kv_type or "f16"
    return WhatIf(vram_bytes=vram_bytes, n_ctx=wishes.n_ctx, kv_type=kv_type, plan=planned)

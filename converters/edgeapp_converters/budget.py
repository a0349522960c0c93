"""How large a file may be to run on this machine, or on one with the memory that the user states.

Three placements, in this order, each with the reserves of `edgeapp.placement`: all on the GPU, routed experts
in host memory, all in host memory. The first that holds the model at four bits counts, because speed depends
on it; the file then gets all the room that placement has. Knows no weights.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeapp.cleantext import clean_line
from edgeapp.errors import UsageError
from edgeapp.hardware import read_gpus, read_host
from edgeapp.placement.plan import COMPUTE_BYTES, DEFAULT_MAX_CTX, GPU_RESERVE_BYTES
from edgeapp_converters.recipe import choose_types, default_recipe, file_bytes, load_recipe, tensor_class
from edgeapp_converters.sensitivity import candidates

if TYPE_CHECKING:
    from edgeapp_converters.metadata import Scalar
    from edgeapp_converters.plan import ModelPlan

_SIZE = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_GIB = 1 << 30
_RAM_SHARE = 0.9
"""Of the memory that is free now; it may be a little less when the file is used."""
_F16_BYTES = 2
_ROUTED = ("routed_gate", "routed_up", "routed_down")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the tensors may take in the file. `reason` is one sentence for the user."""

    file_bytes: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class _Room:
    """What is left for weights once cache and compute buffers have theirs."""

    vram_bytes: int
    ram_bytes: int
    """With the cache on the GPU."""
    kv_bytes: int


@dataclass(frozen=True, kw_only=True)
class _Needs:
    """File bytes of the model: at four bits, and of what every token needs, at its least and its most."""

    usual_bytes: int
    usual_experts_bytes: int
    least_dense_bytes: int
    most_dense_bytes: int


def for_machine(plan: ModelPlan, *, max_vram: str | None = None, max_ram: str | None = None) -> Budget:
    """Return the budget for `max_vram` and `max_ram` (like `8G`), or for what this machine has free now.

    Raise `UsageError` for a size that cannot be read.
    """
    vram_bytes, ram_bytes = _vram(max_vram), _ram(max_ram)
    kv_bytes = cache_bytes(plan)
    room = _Room(
        vram_bytes=vram_bytes - kv_bytes - COMPUTE_BYTES if vram_bytes > 0 else 0,
        ram_bytes=ram_bytes - COMPUTE_BYTES,
        kv_bytes=kv_bytes,
    )
    return _budget(room, _needs(plan), vram_bytes=vram_bytes, ram_bytes=ram_bytes)


def parse_size(text: str) -> int:
    """Return the bytes that `8G`, `7.5GiB` or `512M` mean; units are powers of 1024. Raise `UsageError`."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise UsageError(
            f"{clean_line(text, max_chars=40)!r} is not a size.", hint="Write it like 8G, 7.5G or 512M."
        )
    return int(float(found[1]) * _UNITS[found[2].lower()])


def cache_bytes(plan: ModelPlan) -> int:
    """Return the KV cache's bytes in F16 for the default context.

    Σ over layers of n_head_kv · (head_dim_k + head_dim_v) · 2 bytes a token (llama.cpp,
    src/llama-kv-cache.cpp); latent attention, sliding windows and recurrent layers need less.
    """
    n_layer = max(plan.n_layer, 1)
    n_head = _by_layer(plan, "attention.head_count", n_layer)
    n_head_kv = _by_layer(plan, "attention.head_count_kv", n_layer) if _has_kv(plan) else n_head
    head_dim = _by_layer(plan, "embedding_length", 1)[0] // max(*n_head, 1)
    k = _by_layer(plan, "attention.key_length", 1)[0] or head_dim
    v = _by_layer(plan, "attention.value_length", 1)[0] or head_dim
    n_ctx = min(_by_layer(plan, "context_length", 1)[0] or DEFAULT_MAX_CTX, DEFAULT_MAX_CTX)
    return sum(n_head_kv) * (k + v) * _F16_BYTES * n_ctx


def _budget(room: _Room, needs: _Needs, *, vram_bytes: int, ram_bytes: int) -> Budget:
    cache = f"after {room.kv_bytes / _GIB:.1f} GiB of KV cache and {COMPUTE_BYTES / _GIB:.1f} GiB of buffers"
    given = f"{vram_bytes / _GIB:.1f} GiB of GPU and {ram_bytes / _GIB:.1f} GiB of host memory, {cache}"
    if needs.usual_bytes <= room.vram_bytes:
        return Budget(file_bytes=room.vram_bytes, reason=f"Everything fits on the GPU: {given}.")
    dense_fits = needs.most_dense_bytes <= room.vram_bytes
    if dense_fits and 0 < needs.usual_experts_bytes <= room.ram_bytes:
        # Whatever is chosen, experts take at most what is left when the rest has its least.
        return Budget(
            file_bytes=room.ram_bytes + needs.least_dense_bytes,
            reason=f"Experts go to host memory, the rest to the GPU: {given}.",
        )
    return Budget(
        file_bytes=room.ram_bytes - room.kv_bytes, reason=f"Everything goes to host memory: {given}."
    )


def _needs(plan: ModelPlan) -> _Needs:
    usual = choose_types(plan, default_recipe(plan), has_imatrix=True)
    most = choose_types(plan, load_recipe("q8_0"), has_imatrix=True)
    experts = sum(file_bytes(one) for one in usual if tensor_class(one.plan.name) in _ROUTED)
    dense = [one for one in most if tensor_class(one.plan.name) not in _ROUTED]
    most_dense = sum(map(file_bytes, dense))
    fixed = sum(file_bytes(one) for one in dense if not candidates(one.plan))
    return _Needs(
        usual_bytes=sum(map(file_bytes, usual)),
        usual_experts_bytes=experts,
        # 3.44 bits of Q3_K to 8.5 of Q8_0, the smallest and the largest that a fit chooses.
        least_dense_bytes=fixed + int((most_dense - fixed) * 3.4375 / 8.5),
        most_dense_bytes=most_dense,
    )


def _vram(stated: str | None) -> int:
    if stated is not None:
        return parse_size(stated)
    return sum(max(gpu.free_bytes - GPU_RESERVE_BYTES, 0) for gpu in read_gpus().gpus)


def _ram(stated: str | None) -> int:
    if stated is not None:
        return parse_size(stated)
    return int(read_host().available_ram_bytes * _RAM_SHARE)


def _has_kv(plan: ModelPlan) -> bool:
    return f"{plan.architecture}.attention.head_count_kv" in plan.metadata


def _by_layer(plan: ModelPlan, key: str, n_layer: int) -> tuple[int, ...]:
    """A key of the architecture for each layer; 0 where it is absent."""
    found = plan.metadata.get(f"{plan.architecture}.{key}")
    value: Scalar | tuple[Scalar, ...] = found.value if found else 0
    return tuple(map(int, value)) if isinstance(value, tuple) else (int(value),) * n_layer

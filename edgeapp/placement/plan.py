"""Decide what goes where: context, threads, layers and experts. Pure arithmetic: knows no file and no GPU.

This first form knows three placements, tried in this order: everything on the GPU, the tensors that every
token needs on the GPU and the routed experts in host memory, everything in host memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeapp.errors import NotEnoughMemory, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.gguf_info import GgufInfo
    from edgeapp.hardware import Gpu, Host

DEFAULT_MAX_CTX = 8192
"""Without --ctx the context is the trained one, but at most this: a KV cache for 128k tokens is gigabytes."""
CTX_STEP = 256  # llama.cpp rounds a context up to this (llama-context.cpp, GGML_PAD(n_ctx, 256))
ALL_LAYERS = 999
GPU_RESERVE_BYTES = 1024**3  # what llama.cpp's --fit leaves free as well (common.h, fit_params_target)
CACHE_RAM_SHARE = 0.1
"""Of the free host memory, for conversations that had to leave the KV cache."""
MAX_CACHE_RAM_BYTES = 2 * 1024**3
COMPUTE_BYTES = 512 * 1024**2
"""Room for compute buffers at 512 tokens a micro-batch; measured: 97 MiB on 135M, 300 to 400 MiB on 30B."""


@dataclass(frozen=True, kw_only=True)
class PlacementPlan:
    """Where the model goes. `reason` is one sentence for the user."""

    n_ctx: int
    n_threads: int
    n_gpu_layers: int
    cpu_experts: bool
    use_mmap: bool
    cache_ram_bytes: int
    """Most host memory for conversations that had to leave the KV cache."""
    reason: str


def plan(
    info: GgufInfo,
    host: Host,
    gpus: Sequence[Gpu],
    *,
    ctx: int = 0,
    threads: int = 0,
    cache_ram_bytes: int | None = None,
) -> PlacementPlan:
    """Return the first placement that fits; `ctx` and `threads` 0, `cache_ram_bytes` None mean the defaults.

    Raise `UsageError` for a context beyond the trained one or a cache beyond the free memory,
    `NotEnoughMemory` when nothing fits.
    """
    cache_ram_bytes = _cache_ram(host, cache_ram_bytes)
    n_ctx = _context(info, ctx)
    n_threads = threads or host.physical_cores
    kv_bytes = (info.kv_bytes_per_token or 0) * n_ctx
    free_bytes = sum(gpu.free_bytes - GPU_RESERVE_BYTES for gpu in gpus)
    beside_weights_bytes = kv_bytes + COMPUTE_BYTES
    if gpus and info.tensor_bytes + beside_weights_bytes <= free_bytes:
        _require(host, COMPUTE_BYTES)
        return PlacementPlan(
            n_ctx=n_ctx,
            n_threads=n_threads,
            n_gpu_layers=ALL_LAYERS,
            cpu_experts=False,
            use_mmap=True,
            cache_ram_bytes=cache_ram_bytes,
            reason="all layers on the GPU",
        )
    if gpus and info.expert_bytes and info.dense_bytes + beside_weights_bytes <= free_bytes:
        _require(host, info.expert_bytes + COMPUTE_BYTES)
        return PlacementPlan(
            n_ctx=n_ctx,
            n_threads=n_threads,
            n_gpu_layers=ALL_LAYERS,
            cpu_experts=True,
            # Pinned copies prefill twice as fast as mapped pages, if there is room for them.
            use_mmap=info.expert_bytes > host.available_ram_bytes // 2,
            cache_ram_bytes=cache_ram_bytes,
            reason="always-active tensors on the GPU, experts in host memory",
        )
    _require(host, info.tensor_bytes + beside_weights_bytes)
    return PlacementPlan(
        n_ctx=n_ctx,
        n_threads=n_threads,
        n_gpu_layers=0,
        cpu_experts=False,
        use_mmap=True,
        cache_ram_bytes=cache_ram_bytes,
        reason="everything in host memory" + (", the GPU has too little free memory" if gpus else ""),
    )


def _context(info: GgufInfo, wanted: int) -> int:
    trained = info.n_ctx_train or DEFAULT_MAX_CTX
    if wanted > trained:
        raise UsageError(
            f"The model was trained for {trained} tokens of context, {wanted} were asked for.",
            hint=f"--ctx {trained} is the most it can use.",
        )
    n_ctx = wanted or min(trained, DEFAULT_MAX_CTX)
    return -(-n_ctx // CTX_STEP) * CTX_STEP


def _cache_ram(host: Host, wanted_bytes: int | None) -> int:
    """Return the wanted cache, else a tenth of the free memory; it fills only as far as it is used."""
    if wanted_bytes is None:
        return min(int(host.available_ram_bytes * CACHE_RAM_SHARE), MAX_CACHE_RAM_BYTES)
    if wanted_bytes > host.available_ram_bytes:
        raise UsageError(
            f"{wanted_bytes / 1024**3:.1f} GiB of memory for left conversations were asked for, "
            f"{host.available_ram_bytes / 1024**3:.1f} GiB are available.",
            hint="Use a smaller --cache-ram.",
        )
    return wanted_bytes


def _require(host: Host, needed_bytes: int) -> None:
    if needed_bytes <= host.available_ram_bytes:
        return
    raise NotEnoughMemory(
        f"The model needs {needed_bytes / 1024**3:.1f} GiB of memory, "
        f"{host.available_ram_bytes / 1024**3:.1f} GiB are available.",
        needed_bytes=needed_bytes,
        free_bytes=host.available_ram_bytes,
        hint="Close other programs, use a smaller --ctx, or a smaller quantisation of the model.",
    )

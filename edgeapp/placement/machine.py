"""What the planner knows of a machine: memory, and how fast it moves. Frozen values; reads nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class HostFacts:
    """Memory in bytes and threads as this process may use them; speeds in bytes per second."""

    total_ram_bytes: int
    available_ram_bytes: int
    n_threads: int
    """Physical (performance) cores."""
    ram_read_bps: float
    """Reading weights from host memory with all threads."""
    compute_flops: float
    """Multiply-adds count two: what quantised matrix multiplication reaches in a long prefill."""


@dataclass(frozen=True, kw_only=True)
class DeviceFacts:
    """One GPU as the engine sees it. `name` is ggml's: "CUDA0", "RPC0[127.0.0.1:50052]"."""

    name: str
    description: str
    total_bytes: int
    free_bytes: int
    read_bps: float
    """Reading weights from its own memory."""
    compute_flops: float
    """As `HostFacts.compute_flops`."""
    pinned_bps: float
    """Host to device from page-locked memory."""
    pageable_bps: float
    """Host to device from mapped or pageable memory."""
    sync_s: float
    """What it costs a token to leave the GPU for one layer's experts and to come back."""
    can_offload: bool
    """Prefill computes host-resident experts on the GPU by copying them there (ggml's offload_op): CUDA does,
    a device behind RPC does not."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """`device` None: no GPU that this engine can use. Speeds are measured by `edgeapp tune`, else assumed."""

    host: HostFacts
    device: DeviceFacts | None
    is_measured: bool

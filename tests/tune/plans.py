"""Plans as tests of the tuner need them: everything in host memory, unless they say otherwise."""

from __future__ import annotations

from typing import Any

from edgeapp.placement.machine import HostFacts, Machine
from edgeapp.placement.plan import MemoryUse, PlacementPlan, Prediction

_NOTHING = MemoryUse(weights=0, kv=0, compute=0, total=0, budget=0)
MACHINE = Machine(
    host=HostFacts(
        total_ram_bytes=8 << 30,
        available_ram_bytes=4 << 30,
        n_threads=1,
        ram_read_bps=1e10,
        compute_flops=1e11,
    ),
    device=None,
    is_measured=False,
)


def a_plan(**changed: Any) -> PlacementPlan:
    """Predict 100 tokens/s of decoding and 1,000 of prefill."""
    facts: dict[str, Any] = {
        "n_ctx": 4096,
        "n_gpu_layers": 0,
        "tensor_overrides": (),
        "n_ubatch": 512,
        "n_batch": 512,
        "kv_type": "f16",
        "load_mode": "mmap",
        "flash_attn": "auto",
        "n_threads": 8,
        "n_parallel": 1,
        "device": "",
        "cpu_expert_layers": (),
        "cpu_layers": (),
        "cache_ram_bytes": 0,
        "vram": _NOTHING,
        "ram": _NOTHING,
        "paged_bytes": 0,
        "repack": True,
        "predicted": Prediction(decode_tps=100.0, prefill_tps=1000.0, ttft_s=0.5, request_s=4.5),
        "bottleneck": "reading weights from host memory",
        "reasons": ("everything in host memory",),
    }
    return PlacementPlan(**(facts | changed))

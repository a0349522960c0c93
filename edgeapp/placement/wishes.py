"""What the user wants from a placement: what is pinned, what the budget is, what the model is for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

KvType = Literal["f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
"""Types that a plan may give the KV cache, largest first."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A typical request, whose time the plan makes short."""

    n_prompt: int
    """Tokens that are read, not counting those that are cached."""
    n_answer: int
    """Tokens that are written."""


WORKLOADS: dict[str, Workload] = {
    "chat": Workload(n_prompt=512, n_answer=400),
    "prefill": Workload(n_prompt=8192, n_answer=256),
    "kiosk": Workload(n_prompt=1024, n_answer=128),
}
"""By the name that `--for` takes."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """None, 0 and empty mean that the plan decides. Everything else is a promise that the plan keeps."""

    n_ctx: int = 0
    kv_type: KvType | None = None
    """None is F16, and a smaller type only as a last resort where `may_quantise_kv` allows it."""
    may_quantise_kv: bool = False
    n_ubatch: int = 0
    n_threads: int = 0
    n_parallel: int = 1
    cpu_expert_layers: int | tuple[int, ...] | None = None
    """How many layers keep their routed experts in host memory, or which ones."""
    load_mode: Literal["mmap", "none"] | None = None
    max_vram_bytes: int | None = None
    """Most that may be used on the GPU, whatever is free."""
    reserve_bytes: int | None = None
    """What stays free on the GPU. None is `DEFAULT_RESERVE_BYTES` of `edgeapp.placement.plan`."""
    max_ram_bytes: int | None = None
    cache_ram_bytes: int | None = None
    """Host memory for conversations that had to leave the KV cache."""
    use_gpu: bool = True
    workload: Workload = WORKLOADS["chat"]

"""From settings to what is wished of a placement."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from edgeapp.cleantext import clean_line
from edgeapp.errors import UsageError
from edgeapp.placement.wishes import WORKLOADS, Wishes, Workload

if TYPE_CHECKING:
    from edgeapp.config import Settings
    from edgeapp.placement.wishes import KvType

DEFAULT_WORKLOAD = "chat"


def wishes_of(settings: Settings, *, workload: str = DEFAULT_WORKLOAD, n_parallel: int = 1) -> Wishes:
    """Return what `settings` ask for. Raise `UsageError`."""
    may_quantise = settings.kv == "auto"
    return Wishes(
        n_ctx=settings.ctx,
        kv_type=None if may_quantise or settings.kv == "f16" else cast("KvType", settings.kv),
        may_quantise_kv=may_quantise,
        n_ubatch=settings.ubatch,
        n_threads=settings.threads,
        n_parallel=n_parallel,
        cpu_expert_layers=expert_layers(settings.cpu_experts),
        max_vram_bytes=settings.max_vram_bytes,
        reserve_bytes=settings.reserve_bytes,
        max_ram_bytes=settings.max_ram_bytes,
        cache_ram_bytes=settings.cache_ram_bytes,
        use_gpu=settings.gpu == "auto",
        workload=workload_named(workload),
    )


def workload_named(name: str) -> Workload:
    """Return the workload `name`, or that of the preset `name`. Raise `UsageError` when there is neither."""
    if name in WORKLOADS:
        return WORKLOADS[name]
    from edgeapp.presets import load_preset

    try:
        return WORKLOADS[load_preset(name).workload]
    except UsageError as problem:
        raise UsageError(
            f"There is no workload or preset {clean_line(name, max_chars=60)!r}.",
            hint=f"Workloads are {', '.join(WORKLOADS)}; `edgeapp preset list` shows the presets.",
        ) from problem


def expert_layers(text: str) -> int | tuple[int, ...] | None:
    """Read "auto" (None), "12" (how many), "30-47" or "3,5,9-11" or "5," (which). Raise `UsageError`."""
    if text == "auto":
        return None
    if text.isdecimal():
        return int(text)
    layers: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        start, end = int(first), int(last or first)
        if end < start:
            raise UsageError(f"--cpu-experts: {part} ends before it begins.", hint=f"Try {end}-{start}.")
        layers.update(range(start, end + 1))
    return tuple(sorted(layers))

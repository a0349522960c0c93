"""What the memory of a device consists of: weights, KV cache, compute buffers, other programs, free. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from edgeapp.monitor.samples import DeviceSample, MemorySample, RamSample
    from edgeapp.monitor.status import EngineStatus
    from edgeapp.protocol import BufferUse, Device

PartKind = Literal[
    "weights", "kv", "compute", "runtime", "engine", "other", "system", "mapped", "free", "lost"
]
"""`runtime`: what our processes hold beyond their buffers, as CUDA's own context. `engine`: host memory of
our processes. `system`: in use, and nobody says by whom. `mapped`: weights in the file cache, which can be
dropped."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """`label` is the name of another program, else empty."""

    kind: PartKind
    size_bytes: int
    label: str = ""


def device_parts(device: DeviceSample, uses: Iterable[BufferUse]) -> tuple[Part, ...]:
    """Return what `device` is filled with; the sizes add up to its total. `uses` are those on this device."""
    if device.lost:
        return (Part(kind="lost", size_bytes=device.total_bytes),)
    uses = tuple(uses)
    used = [
        Part(kind="weights", size_bytes=sum(use.weights_bytes for use in uses)),
        Part(kind="kv", size_bytes=sum(use.kv_bytes for use in uses)),
        Part(kind="compute", size_bytes=sum(use.compute_bytes for use in uses)),
    ]
    if device.gpu is not None:
        buffers_bytes = sum(part.size_bytes for part in used)
        used.append(Part(kind="runtime", size_bytes=(device.gpu.ours_bytes or 0) - buffers_bytes))
        used += [
            Part(kind="other", label=process.name, size_bytes=process.used_bytes or 0)
            for process in device.gpu.others
        ]
    return _filled(used, used_bytes=device.used_bytes, total_bytes=device.total_bytes)


def ram_parts(ram: RamSample) -> tuple[Part, ...]:
    """Return what RAM is filled with; the sizes add up to its total."""
    used = [Part(kind="engine", size_bytes=ram.ours_bytes)]
    used += [Part(kind="other", label=other.name, size_bytes=other.used_bytes) for other in ram.others]
    parts = _filled(used, used_bytes=ram.used_bytes, total_bytes=ram.total_bytes)
    mapped_bytes = min(ram.mapped_bytes, sum(part.size_bytes for part in parts if part.kind == "free"))
    free = [part for part in parts if part.kind == "free"]
    mapped = [Part(kind="mapped", size_bytes=mapped_bytes)] if mapped_bytes else []
    left = [Part(kind="free", size_bytes=part.size_bytes - mapped_bytes) for part in free]
    return (*(part for part in parts if part.kind != "free"), *mapped, *left)


def _filled(wanted: Sequence[Part], *, used_bytes: int, total_bytes: int) -> tuple[Part, ...]:
    """Cut `wanted` to what is in use (readings are not of one moment); add what nobody claims, and free."""
    used_bytes = min(max(used_bytes, 0), max(total_bytes, 0))
    parts = tuple(_cut(wanted, used_bytes))
    unclaimed_bytes = used_bytes - sum(part.size_bytes for part in parts)
    free_bytes = max(total_bytes, 0) - used_bytes
    rest = (Part(kind="system", size_bytes=unclaimed_bytes), Part(kind="free", size_bytes=free_bytes))
    return (*parts, *(part for part in rest if part.size_bytes))


def _cut(parts: Iterable[Part], room_bytes: int) -> Iterator[Part]:
    for part in parts:
        size_bytes = min(max(part.size_bytes, 0), room_bytes)
        room_bytes -= size_bytes
        if size_bytes:
            yield Part(kind=part.kind, label=part.label, size_bytes=size_bytes)


def uses_on(
    device: DeviceSample, sample: MemorySample, engines: Iterable[EngineStatus]
) -> tuple[BufferUse, ...]:
    """Return the buffers that `engines` have on `device`."""
    return tuple(
        use
        for engine in engines
        for use in engine.buffers
        if use.device in _engine_names(device, sample, engine.devices)
    )


def _engine_names(device: DeviceSample, sample: MemorySample, known: Sequence[Device]) -> frozenset[str]:
    """Return ggml's name for `device`. CUDA numbers its devices in an order of its own, unlike NVML's.

    So cards are matched by what they are called, and those that are called the same one after the other.
    """
    if device.gpu is None:
        return frozenset({device.name})
    named_alike = [other.name for other in sample.devices if other.description == device.description]
    candidates = [other.name for other in known if other.description == device.description]
    position = named_alike.index(device.name)
    if position < len(candidates):
        return frozenset({candidates[position]})
    return frozenset() if known else frozenset({f"CUDA{device.gpu.index}"})

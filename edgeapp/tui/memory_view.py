"""Lay out memory and running engines for a number of cells and rows. Pure: knows no widget and no terminal.

Rows have a rank: when there are too few, the pictures of the past go first, then plans and legends.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from textwrap import wrap
from typing import TYPE_CHECKING

from edgeapp.tui.memory_bars import (
    cut_line,
    expert_counts,
    expert_strip,
    gib,
    legend,
    memory_bar,
    sparkline,
    two_sided,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from edgeapp.hardware import GpuSample
    from edgeapp.monitor.overview import Overview
    from edgeapp.monitor.samples import DeviceSample, RamSample
    from edgeapp.monitor.status import EngineState, EngineStatus
    from edgeapp.tui.memory_bars import Line

NO_GPU = "No GPU that NVML or an engine knows."
NO_ENGINE = "No engine is running; `edgeapp run` starts one."

_MUST, _LEGEND, _PLAN, _PAST, _SPACE = range(5)
"""Ranks of rows; the highest go first."""
_MAKER = "NVIDIA "
_STATE_STYLES: dict[EngineState, str] = {
    "loading": "$text-warning",
    "ready": "$text-success",
    "answering": "$text-accent",
    "released": "dim",
    "down": "$text-error",
}


@dataclass(frozen=True, kw_only=True)
class MemoryView:
    """What is shown: one moment, and which shares of each memory were in use before."""

    overview: Overview
    device_use: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """By the device's name."""
    ram_use: Sequence[float] = ()


@dataclass(frozen=True, kw_only=True)
class _Row:
    line: Line
    rank: int = _MUST


def memory_lines(view: MemoryView, *, width: int, height: int | None = None) -> tuple[Line, ...]:
    """Return at most `height` lines (None: all) of at most `width` cells."""
    rows = list(_rows(view, width))
    while height is not None and len(rows) > height:
        least = max(row.rank for row in rows)
        if least == _MUST:
            rows = [*rows[: max(height - 1, 0)], _Row(line=(("…", "dim"),))][:height]
            break
        del rows[max(i for i, row in enumerate(rows) if row.rank == least)]
    return tuple(cut_line(row.line, width) for row in rows)


def plain_text(lines: Sequence[Line]) -> str:
    """Return `lines` without styles."""
    return "\n".join("".join(text for text, _ in line).rstrip() for line in lines)


def _rows(view: MemoryView, width: int) -> Iterator[_Row]:
    devices = view.overview.sample.devices
    for device in devices:
        yield from _device_rows(view, device, width)
        yield _Row(line=(), rank=_SPACE)
    if not devices:
        yield _Row(line=((NO_GPU, "dim"),))
        yield _Row(line=(), rank=_SPACE)
    yield from _ram_rows(view, width)
    yield _Row(line=(), rank=_SPACE)
    yield from _engine_rows(view.overview.engines, width)


def _device_rows(view: MemoryView, device: DeviceSample, width: int) -> Iterator[_Row]:
    parts = view.overview.parts_of(device)
    title = ((device.name, "bold"), (f"  {device.description.removeprefix(_MAKER)}", ""))
    yield _Row(line=two_sided(title, device_figures(device), width))
    yield _Row(line=memory_bar(parts, width))
    if not device.lost:
        yield _Row(line=legend(parts, width), rank=_LEGEND)
        yield from _past(view.device_use.get(device.name, ()), width)
    if complaint := gpu_complaint(device.gpu):
        yield _Row(line=((complaint, "$text-warning"),), rank=_LEGEND)


def _ram_rows(view: MemoryView, width: int) -> Iterator[_Row]:
    parts = view.overview.ram_parts
    yield _Row(line=two_sided((("RAM", "bold"),), ram_figures(view.overview.sample.ram), width))
    yield _Row(line=memory_bar(parts, width))
    yield _Row(line=legend(parts, width), rank=_LEGEND)
    yield from _past(view.ram_use, width)


def _past(shares: Sequence[float], width: int) -> Iterator[_Row]:
    if len(shares) > 1:
        yield _Row(line=((sparkline(shares, width), "$text-muted"),), rank=_PAST)


def device_figures(device: DeviceSample) -> list[str]:
    """Return the figures beside a GPU's name, from complete to short."""
    if device.lost:
        return ["lost: the driver cannot reach it any more", "lost"]
    used = f"{gib(device.used_bytes)} of {gib(device.total_bytes)} GiB"
    busy, heat, power = _vitals(device.gpu)
    variants = [[f"{used} used", busy, heat, power], [used, busy, heat, power], [used, busy, heat], [used]]
    return [" · ".join(filter(None, parts)) for parts in variants]


def _vitals(gpu: GpuSample | None) -> tuple[str, str, str]:
    if gpu is None:
        return "", "", ""
    busy = "" if gpu.utilisation_percent is None else f"{gpu.utilisation_percent} % busy"
    heat = "" if gpu.temperature_c is None else f"{gpu.temperature_c} °C"
    limit = "" if gpu.power_limit_w is None else f" of {gpu.power_limit_w:.0f}"
    return busy, heat, "" if gpu.power_w is None else f"{gpu.power_w:.0f}{limit} W"


def gpu_complaint(gpu: GpuSample | None) -> str:
    """Say what keeps a GPU from its full speed; empty when nothing does."""
    if gpu is None or gpu.lost:
        return ""
    complaints = [f"clock held down by {reason}" for reason in gpu.throttles or ()]
    if gpu.pcie_width and gpu.pcie_max_width and gpu.pcie_width < gpu.pcie_max_width:
        complaints.append(f"PCIe ×{gpu.pcie_width} of ×{gpu.pcie_max_width} lanes")
    return " · ".join(complaints)


def ram_figures(ram: RamSample) -> list[str]:
    """Return the figures beside RAM, from complete to short."""
    used = f"{gib(ram.used_bytes)} of {gib(ram.total_bytes)} GiB"
    swap = f"swap {gib(ram.used_swap_bytes)} of {gib(ram.total_swap_bytes)} GiB"
    swap = swap if ram.total_swap_bytes else "no swap"
    return [f"{used} used · {swap}", f"{used} · {swap}", used]


def _engine_rows(engines: Sequence[EngineStatus], width: int) -> Iterator[_Row]:
    if not engines:
        yield _Row(line=((NO_ENGINE, "dim"),))
    for engine in engines:
        title = (
            ("● ", _STATE_STYLES[engine.state]),
            (engine.model, "bold"),
            (f"  {engine.front_end}", "dim"),
        )
        yield _Row(line=two_sided(title, engine_figures(engine), width))
        if engine.expert_places:
            yield _Row(line=_experts(engine, width), rank=_LEGEND)
        for line in wrap(engine.plan, max(width - 2, 1)):
            yield _Row(line=((f"  {line}", "dim"),), rank=_PLAN)


def _experts(engine: EngineStatus, width: int) -> Line:
    """Return a cell for each layer, and the counts beside, in short where that makes room for all layers."""
    label, places = "  experts ", engine.expert_places
    full, short = (f"  {counts}" for counts in expert_counts(places))
    room = width - len(label)
    beside = next((text for text in (full, short, "") if room - len(text) >= len(places)), short)
    strip = expert_strip(places, room - len(beside))
    return ((label, ""), *strip, (beside, ""))


def engine_figures(engine: EngineStatus) -> list[str]:
    """Return the figures beside a model's name, from complete to short."""
    speed = f"{engine.decode_tps:.1f} tok/s" if engine.decode_tps else ""
    share = f"{engine.n_ctx_used * 100 // engine.n_ctx} %" if engine.n_ctx else ""
    context = f"context {engine.n_ctx_used:,}/{engine.n_ctx:,} ({share})" if share else ""
    requests = "1 request" if engine.n_requests == 1 else f"{engine.n_requests:,} requests"
    short_context = f"ctx {share}" if share else ""
    variants: list[list[str]] = [
        [engine.state, speed, context, requests],
        [engine.state, speed, context],
        [engine.state, speed, short_context],
        [engine.state, speed],
        [engine.state],
    ]
    return [" · ".join(filter(None, parts)) for parts in variants]


def natural_height(view: MemoryView, width: int) -> int:
    """Return how many lines there are when nothing is left out."""
    return len(memory_lines(view, width=width))

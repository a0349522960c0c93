"""Print a placement for people: the sentence, memory by component, a picture of the layers, what if."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgeapp.cleantext import clean_line
from edgeapp.cli.download_progress import describe_bytes
from edgeapp.cli.table import print_columns, print_rows
from edgeapp.placement.explain import GIB, rate, tokens
from edgeapp.placement.what_if import what_if

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.placement.plan import MemoryUse, PlacementPlan
    from edgeapp.placement.what_if import WhatIf
    from edgeapp.runtime.planning import Planned

_ON_GPU, _EXPERTS_IN_RAM, _IN_RAM = "█", "▒", "░"
_LAYERS_PER_LINE = 64


def print_plan(made: Planned) -> None:
    """Print everything on stdout."""
    plan = made.plan
    click.echo(plan.reason)
    click.echo()
    print_columns([("", "weights", "KV cache", "compute", "total", "budget"), *_memory(plan)])
    click.echo()
    print_rows(_rows(made))
    if plan.reasons[1:]:
        click.echo("\nWhy")
        for reason in plan.reasons[1:]:
            click.echo(f"  {reason}")
    rows = what_if(made.shape, made.machine, made.compute, made.wishes)
    if rows:
        click.echo("\nWhat if: tokens/s (expert layers in RAM)")
        print_columns(_what_if_rows(rows))


def _memory(plan: PlacementPlan) -> list[tuple[str, ...]]:
    uses = [("RAM", plan.ram)]
    if plan.device:
        uses.insert(0, ("VRAM", plan.vram))
    return [_memory_row(name, use) for name, use in uses]


def _memory_row(name: str, use: MemoryUse) -> tuple[str, ...]:
    return (name, *map(_gib, (use.weights, use.kv, use.compute, use.total, use.budget)))


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / GIB:.2f} GiB"


def _rows(made: Planned) -> list[tuple[str, str]]:
    plan, info, device = made.plan, made.info, made.machine.device
    experts = f", {info.n_expert_used} of {info.n_expert} experts" if info.is_moe else ""
    gpu = clean_line(f"{device.description} ({device.name})") if device else "none that this engine can use"
    rows = [
        ("model", f"{clean_line(info.path.name)}, {describe_bytes(info.file_bytes)}{experts}"),
        ("GPU", gpu),
        ("context", f"{plan.n_ctx} tokens, KV in {plan.kv_type}"),
        ("micro-batch", f"{plan.n_ubatch} tokens"),
        ("threads", str(plan.n_threads)),
        ("weights in RAM", "mapped file" if plan.load_mode == "mmap" else "private memory"),
        ("reading", f"{rate(plan.predicted.prefill_tps)} tok/s of the prompt"),
        ("bottleneck", plan.bottleneck),
    ]
    return [*rows, *_picture(made)] if plan.device else rows


def _picture(made: Planned) -> list[tuple[str, str]]:
    """Return the layers, one sign each."""
    plan = made.plan
    signs = "".join(_sign(plan, layer) for layer in range(len(made.shape.layers)))
    lines = [signs[start : start + _LAYERS_PER_LINE] for start in range(0, len(signs), _LAYERS_PER_LINE)]
    legend = f"{_ON_GPU} GPU  {_EXPERTS_IN_RAM} experts in RAM  {_IN_RAM} RAM"
    return [("layers", lines[0]), *(("", line) for line in lines[1:]), ("", legend)]


def _sign(plan: PlacementPlan, layer: int) -> str:
    if layer in plan.cpu_layers:
        return _IN_RAM
    return _EXPERTS_IN_RAM if layer in plan.cpu_expert_layers else _ON_GPU


def _what_if_rows(rows: Sequence[WhatIf]) -> list[tuple[str, ...]]:
    """Return a table with a column for each amount of VRAM."""
    cards = sorted({row.vram_bytes for row in rows})
    cells = {(row.n_ctx, row.kv_type, row.vram_bytes): _outcome(row) for row in rows}
    lines = dict.fromkeys((row.n_ctx, row.kv_type) for row in rows)
    heading = ("  context", "KV", *(f"{card / GIB:.0f} GiB VRAM" for card in cards))
    return [
        heading,
        *((f"  {tokens(n_ctx)}", kv, *(cells[n_ctx, kv, card] for card in cards)) for n_ctx, kv in lines),
    ]


def _outcome(row: WhatIf) -> str:
    if row.plan is None:
        return "does not fit"
    speed = rate(row.plan.predicted.decode_tps)
    if not row.plan.device:
        return f"{speed} (CPU only)"
    n_in_ram = len(row.plan.cpu_expert_layers)
    return f"{speed} ({n_in_ram})" if n_in_ram else speed

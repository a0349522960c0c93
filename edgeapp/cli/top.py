"""`edgeapp top`: show the memory of all devices and the running engines, live or once."""

from __future__ import annotations

import shutil
import sys
import time

import click
import msgspec

from edgeapp.monitor.overview import Overlook, Overview

_MIN_INTERVAL_S, _MAX_INTERVAL_S = 0.2, 3600.0
_PLAIN_WIDTH_CELLS = 100
_EPILOG = """\b
Examples:
  edgeapp top                    watch, until q
  edgeapp top --once             print it once
  edgeapp top --json --once      the same for a program
"""


@click.command(epilog=_EPILOG)
@click.option("--once", is_flag=True, help="Print one sample as text and end; so does a pipe.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each sample, until Ctrl+C.")
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(_MIN_INTERVAL_S, _MAX_INTERVAL_S),
    default=1.0,
    show_default=True,
    metavar="S",
    help="Seconds between samples.",
)
def command(*, once: bool, as_json: bool, interval_s: float) -> None:
    """Show what holds VRAM and RAM, and the engines that run.

    Every GPU as a bar: weights, KV cache, compute buffers, other programs by name, free; with load, heat and
    power where the driver tells them. Every running engine with its speed, its context and the place of each
    layer's experts. Keys: q quit, p pause, ? help.
    """
    with Overlook() as overlook:
        if as_json:
            _print_json(overlook, interval_s=None if once else interval_s)
        elif once or not (sys.stdin.isatty() and sys.stdout.isatty()):
            _print_text(overlook.look())
        else:
            _watch(overlook, interval_s)


def _print_text(overview: Overview) -> None:
    from edgeapp.tui.memory_view import MemoryView, memory_lines, plain_text

    width = shutil.get_terminal_size((_PLAIN_WIDTH_CELLS, 24)).columns
    click.echo(plain_text(memory_lines(MemoryView(overview=overview), width=width)))


def _print_json(overlook: Overlook, *, interval_s: float | None) -> None:
    """Print one sample, and with `interval_s` one after the other."""
    while True:
        click.echo(msgspec.json.encode(as_record(overlook.look(), time_s=time.time())))
        if interval_s is None:
            return
        time.sleep(interval_s)


def as_record(overview: Overview, *, time_s: float) -> dict[str, object]:
    """Return `overview` for JSON, with the parts that each memory consists of. `time_s` is Unix time."""
    sample = overview.sample
    devices = [
        {**_fields(device), "lost": device.lost, "parts": overview.parts_of(device)}
        for device in sample.devices
    ]
    ram = {**_fields(sample.ram), "parts": overview.ram_parts}
    return {"time_s": time_s, "devices": devices, "ram": ram, "engines": overview.engines}


def _fields(value: object) -> dict[str, object]:
    fields = msgspec.to_builtins(value)
    assert isinstance(fields, dict)  # noqa: S101 - a dataclass
    return fields


def _watch(overlook: Overlook, interval_s: float) -> None:
    from edgeapp import config
    from edgeapp.tui.top import TopApp

    TopApp(overlook.look, interval_s=interval_s, theme=config.load_settings({}).theme).run()

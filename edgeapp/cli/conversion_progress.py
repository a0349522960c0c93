"""Draw a conversion: one bar per stage on a terminal, a line for every quarter otherwise. On stderr."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

import click

from edgeapp.cleantext import clean_line
from edgeapp.cli.download_progress import describe_bytes
from edgeapp_converters.events import StageProgress, Warned

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeapp_converters.events import ConversionEvent, Report, Stage

_BAR_CHARS = 30
_STEPS_WITHOUT_TERMINAL = 4
_REDRAW_S = 0.1
_WORDS: dict[Stage, str] = {
    "reading": "Reading",
    "downloading": "Downloading",
    "upcycling": "Upcycling",
    "measuring": "Measuring",
    "calibrating": "Calibrating",
    "converting": "Converting",
    "checking": "Checking",
    "comparing": "Comparing",
}
_WIDTH = max(map(len, _WORDS.values()))


@contextmanager
def shown() -> Iterator[Report]:
    """Yield the listener that draws; leaves the cursor on a fresh line."""
    drawing = _Drawing(is_terminal=sys.stderr.isatty())
    try:
        yield drawing.tell
    finally:
        drawing.end_line()


@dataclass(kw_only=True)
class _StageClock:
    """When the running stage began, and with how much already done, so that a rate is of this run."""

    stage: tuple[str, str]
    started_s: float
    done_at_start: int

    def rate(self, done: int) -> float:
        """Return units per second; 0 while nothing can be said."""
        elapsed_s = time.monotonic() - self.started_s
        return (done - self.done_at_start) / elapsed_s if elapsed_s >= 1 else 0.0


class _Drawing:
    def __init__(self, *, is_terminal: bool) -> None:
        self._is_terminal = is_terminal
        self._clock: _StageClock | None = None
        self._drawn = ""
        self._drawn_s = 0.0
        self._told_step = -1

    def tell(self, event: ConversionEvent) -> None:
        match event:
            case StageProgress():
                self._progress(event)
            case Warned(message=message, hint=hint):
                self.end_line()
                click.echo(
                    f"{click.style('warning:', fg='yellow', bold=True)} {clean_line(message)}", err=True
                )
                if hint:
                    click.echo(f"{click.style('hint:', fg='cyan')} {clean_line(hint)}", err=True)
            case _:
                assert_never(event)

    def end_line(self) -> None:
        if self._drawn:
            click.echo(err=True)
            self._drawn = ""

    def _progress(self, event: StageProgress) -> None:
        clock = self._clock_of(event)
        if not self._is_terminal:
            self._line(event, clock)
            return
        is_last = event.done >= event.total
        now_s = time.monotonic()
        if not is_last and now_s - self._drawn_s < _REDRAW_S:
            return
        line = _bar(event, clock.rate(event.done))
        if line != self._drawn:
            click.echo(f"\r\x1b[2K{line}", nl=False, err=True)
            self._drawn, self._drawn_s = line, now_s

    def _clock_of(self, event: StageProgress) -> _StageClock:
        stage = (event.stage, event.label if event.unit != "steps" else "")
        if self._clock is None or self._clock.stage != stage:
            self.end_line()
            self._clock = _StageClock(stage=stage, started_s=time.monotonic(), done_at_start=event.done)
            self._told_step = -1
            self._drawn_s = 0.0
        return self._clock

    def _line(self, event: StageProgress, clock: _StageClock) -> None:
        step = _STEPS_WITHOUT_TERMINAL * event.done // max(event.total, 1)
        if step != self._told_step:
            self._told_step = step
            label = f" {clean_line(event.label)}" if event.label else ""
            click.echo(f"{_WORDS[event.stage]}{label}: {_numbers(event, clock.rate(event.done))}", err=True)


def _bar(event: StageProgress, rate: float) -> str:
    filled = _BAR_CHARS * min(event.done, event.total) // max(event.total, 1)
    bar = "█" * filled + "░" * (_BAR_CHARS - filled)
    label = f"  {clean_line(event.label, max_chars=40)}" if event.label else ""
    return f"{_WORDS[event.stage]:<{_WIDTH}} {bar} {_numbers(event, rate)}{label}"


def _numbers(event: StageProgress, rate: float) -> str:
    percent = f"{100 * event.done // max(event.total, 1)} %"
    if event.unit == "steps":
        return percent
    amount = f"{_amount(event.done, event.unit)} of {_amount(event.total, event.unit)}"
    if rate <= 0:
        return f"{percent}, {amount}"
    left_s = round((event.total - event.done) / rate)
    speed = f"{rate / 1e6:.1f} MB/s" if event.unit == "bytes" else f"{rate:.0f} {event.unit}/s"
    return f"{percent}, {amount}, {speed}, {left_s // 60}:{left_s % 60:02} left"


def _amount(count: int, unit: str) -> str:
    return describe_bytes(count) if unit == "bytes" else f"{count:,} {unit}"

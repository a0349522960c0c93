"""Tell on stderr what `edgeapp tune` is trying: a line for each try, redrawn on a terminal."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, assert_never

import click

from edgeapp.cleantext import clean_line
from edgeapp.tune.tuning import Starting, Trial

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeapp.tune.tuning import TuneEvent


class TuneProgress:
    """What is tried now, and what came of it."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._is_open = False

    @contextmanager
    def shown(self) -> Iterator[TuneProgress]:
        """Leave the cursor on a fresh line, however it ends."""
        try:
            yield self
        finally:
            self._clear()

    def measuring_machine(self) -> None:
        self._now("Measuring memory and copies (about 10 s)")

    def tell(self, event: TuneEvent) -> None:
        match event:
            case Starting(name=name, left_s=left_s):
                minutes, seconds = divmod(round(left_s), 60)
                self._now(f"Trying {name} ({minutes}:{seconds:02} left)")
            case Trial():
                self._clear()
                click.echo(f"{event.name}: {_came_of(event)}", err=True)
            case _:
                assert_never(event)

    def _now(self, text: str) -> None:
        self._clear()
        if self._is_terminal:
            click.echo(f"\r{text} …", nl=False, err=True)
            self._is_open = True
        else:
            click.echo(f"{text} …", err=True)

    def _clear(self) -> None:
        if self._is_open:
            click.echo("\r\x1b[2K", nl=False, err=True)
            self._is_open = False


def _came_of(trial: Trial) -> str:
    if trial.actual is None:
        return clean_line(trial.problem)
    actual = trial.actual
    return f"{actual.decode_tps:.1f} tokens/s written, {actual.prefill_tps:.0f} read"

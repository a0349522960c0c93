"""Turns work that gets done into progress events, at most ten a second."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

from edgeapp_converters.events import StageProgress

if TYPE_CHECKING:
    from edgeapp_converters.events import Report, Stage

_REPORT_S = 0.1


class Meter:
    """Counts one stage up to `total`. Begins and ends with an event."""

    def __init__(
        self,
        stage: Stage,
        *,
        total: int,
        unit: Literal["bytes", "steps"],
        report: Report,
        done: int = 0,
        label: str = "",
    ) -> None:
        self._stage: Stage = stage
        self._total = total
        self._unit: Literal["bytes", "steps"] = unit
        self._report = report
        self._done = done
        self._label = label
        self._tell()

    def reached(self, done: int) -> None:
        """Say how much is done by now."""
        self._done = done
        if time.monotonic() - self._told_s >= _REPORT_S:
            self._tell()

    def advance(self, amount: int) -> None:
        """Say how much more is done."""
        self.reached(self._done + amount)

    def finish(self) -> None:
        self._done = self._total
        self._tell()

    def _tell(self) -> None:
        self._told_s = time.monotonic()
        self._report(
            StageProgress(
                stage=self._stage, done=self._done, total=self._total, unit=self._unit, label=self._label
            )
        )

"""Run a long build: everything goes to a log file, the terminal gets one honest progress line."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from failure import SetupError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_NINJA_STEP = re.compile(r"\[(\d+)/(\d+)\]")  # [57/138] Building CXX object ...
_MAKE_STEP = re.compile(r"\[\s*(\d+)(%)\]")  # [ 41%] Building CXX object ...
_MIN_STEPS = 10  # shorter runs are CMake's own compiler checks
_BAR_CHARS = 24
_STEP_PERCENT = 5
_MIN_FORECAST = 0.05  # before that, the time left is a guess
_TAIL_LINES = 25


@dataclass(kw_only=True)
class Progress:
    """How far a build is, read from its output."""

    label: str
    out: TextIO = field(default_factory=lambda: sys.stderr)
    started_s: float = field(default_factory=time.monotonic)
    fraction: float = 0.0
    _shown_percent: int = -1

    def feed(self, line: str) -> None:
        """Take one line of build output and show the progress it tells of, if any."""
        fraction = read_fraction(line)
        if fraction is None or fraction < self.fraction:
            return
        self.fraction = fraction
        percent = int(fraction * 100)
        if self.out.isatty():
            self._show(f"\r{self._line(percent)}\033[K")
        elif percent // _STEP_PERCENT > self._shown_percent // _STEP_PERCENT:
            self._shown_percent = percent
            self._show(f"{self._line(percent)}\n")

    def end(self) -> None:
        if self.out.isatty():
            self._show("\n")

    def _line(self, percent: int) -> str:
        bar = ("#" * int(self.fraction * _BAR_CHARS)).ljust(_BAR_CHARS, ".")
        return f"{self.label} [{bar}] {percent:3d} %  {self._clock()}"

    def _clock(self) -> str:
        elapsed_s = time.monotonic() - self.started_s
        if self.fraction < _MIN_FORECAST or self.fraction == 1.0:
            return _minutes(elapsed_s)
        left_s = elapsed_s / self.fraction * (1 - self.fraction)
        return f"{_minutes(elapsed_s)}, about {_minutes(left_s)} left"

    def _show(self, text: str) -> None:
        self.out.write(text)
        self.out.flush()


def read_fraction(line: str) -> float | None:
    """Return how far ninja or make say they are, or None for any other line."""
    if step := _NINJA_STEP.search(line):
        done, total = int(step[1]), int(step[2])
        return min(done / total, 1.0) if total >= _MIN_STEPS else None
    if step := _MAKE_STEP.search(line):
        return min(int(step[1]) / 100, 1.0)
    return None


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def run(
    command: Sequence[str | Path],
    *,
    label: str,
    log_file: Path,
    env: Mapping[str, str] | None = None,
    hint: str = "",
) -> None:
    """Run `command` to its end. Raise `SetupError` with the last lines of its output when it fails."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    progress = Progress(label=label)
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    with log_file.open("a") as log:
        status = _follow(command, env=env, log=log, progress=progress, tail=tail)
    progress.end()
    if status != 0:
        sys.stderr.writelines(tail)
        raise SetupError(f"{label} failed with status {status}; the full log is {log_file}.", hint=hint)


def _follow(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None,
    log: TextIO,
    progress: Progress,
    tail: deque[str],
) -> int:
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=env,
        start_new_session=True,  # so that Ctrl+C reaches us first and we end the whole group
    ) as process:
        assert process.stdout is not None  # noqa: S101 - a pipe was asked for
        try:
            for line in process.stdout:
                log.write(line)
                tail.append(line)
                progress.feed(line)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            raise
    return process.returncode

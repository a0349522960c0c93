"""Runs the real `edgeapp` command in processes of its own and looks for workers left behind."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

COMMAND = [sys.executable, "-m", "edgeapp"]
PATIENCE_S = 60.0
GONE_WITHIN_S = 2.0


def edgeapp(
    *arguments: str | Path, stdin: str | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run to the end; no standard input unless `stdin` is given."""
    source = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        **source,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        cwd=cwd,
    )


def workers_of(pid: int) -> list[psutil.Process]:
    """Return the engine workers among the descendants of process `pid`."""
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [child for child in children if "edgeapp.engine.worker" in _command_line(child)]


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def wait_for(condition: Callable[[], bool], *, what: str, timeout_s: float = PATIENCE_S) -> None:
    """Wait until `condition` holds; fail the test with `what` otherwise."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"timed out: {what}"
        time.sleep(0.02)


def assert_gone(processes: list[psutil.Process]) -> None:
    """Fail unless every process has ended within two seconds."""
    deadline = time.monotonic() + GONE_WITHIN_S
    while any(map(_is_alive, processes)) and time.monotonic() < deadline:
        time.sleep(0.02)
    alive = list(filter(_is_alive, processes))
    assert not alive, f"left behind: {alive}"


def _is_alive(process: psutil.Process) -> bool:
    """Tell whether it still runs; one that only waits for init to read its status does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

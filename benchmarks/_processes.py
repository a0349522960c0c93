"""What a whole command costs: wall time, CPU time, peak private memory, peak size of a folder it fills."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SAMPLE_S = 0.02


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one command, or of several one after the other."""

    wall_s: float
    cpu_s: float
    private_bytes: int
    """Most anonymous memory that the command and its children held at once; mapped files do not count."""
    disk_bytes: int
    """Most that the watched folder held at once."""

    def then(self, other: Cost) -> Cost:
        """Return the cost of this command followed by `other`."""
        return Cost(
            wall_s=self.wall_s + other.wall_s,
            cpu_s=self.cpu_s + other.cpu_s,
            private_bytes=max(self.private_bytes, other.private_bytes),
            disk_bytes=max(self.disk_bytes, other.disk_bytes),
        )


def cost_of(command: Sequence[str], *, folder: Path, environment: Mapping[str, str] | None = None) -> Cost:
    """Run `command` to its end and return what it cost. A failing command ends the benchmark."""
    started_s = time.perf_counter()
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, **(environment or {})},
    ) as process:
        watcher = _Watcher(process.pid, folder)
        watcher.start()
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall_s = time.perf_counter() - started_s
        watcher.stop()
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with {process.returncode}:\n{said.decode()[-2000:]}")
    return Cost(
        wall_s=wall_s,
        cpu_s=usage.ru_utime + usage.ru_stime,
        private_bytes=watcher.private_bytes,
        disk_bytes=watcher.disk_bytes,
    )


class _Watcher(threading.Thread):
    """Samples a process tree and a folder until it is stopped."""

    def __init__(self, pid: int, folder: Path) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._folder = folder
        self._ended = threading.Event()
        self.private_bytes = 0
        self.disk_bytes = 0

    def run(self) -> None:
        while not self._ended.wait(_SAMPLE_S):
            self.private_bytes = max(self.private_bytes, _tree_private_bytes(self._pid))
            self.disk_bytes = max(self.disk_bytes, folder_bytes(self._folder))

    def stop(self) -> None:
        self._ended.set()
        self.join()


def folder_bytes(folder: Path) -> int:
    """Return the disk blocks that the files in `folder` and below take."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total


def _tree_private_bytes(pid: int) -> int:
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return 0
    return sum(map(_private_bytes, [pid, *(child.pid for child in children)]))


def _private_bytes(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    line = next((line for line in status.splitlines() if line.startswith("RssAnon")), "RssAnon: 0")
    return int(line.split()[1]) * 1024

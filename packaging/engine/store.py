"""The per-user cache of what this folder's scripts fetch and build. Knows names, locks and renames.

pip's own cache names a wheel after its link alone: it would hand out a CPU build after a GPU was added,
or code for another CPU when the home folder moved. Here the name holds everything the build depends on.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def root() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "edgeapp" / "engine"


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock `name`, so that two builds of one thing wait for each other instead of racing."""
    root().mkdir(parents=True, exist_ok=True)
    with (root() / f"{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Waiting: another process is making {name}.", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def workshop() -> Iterator[Path]:
    """Give a folder inside the cache that is removed afterwards, whatever happened."""
    root().mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".building-", dir=root()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def place(made: Path, target: Path) -> Path:
    """Move a finished file to `target` in one step that survives a power cut, and return `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    shutil.move(made, part)
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return target

"""Where conversations wait for the next worker: a folder of this process, gone when it ends.

One that a killed process left is removed by the next that comes along. Knows no format and no engine.
"""

from __future__ import annotations

import itertools
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from edgeapp import paths

if TYPE_CHECKING:
    from collections.abc import Iterator

_numbers = itertools.count(1)
_STARTED = 19  # proc(5), /proc/pid/stat, starttime, counted from the field after the command's name


class Parking:
    """At most one folder that holds something; `folder` is None before the first and after the end."""

    def __init__(self) -> None:
        self.folder: Path | None = None

    def new(self) -> Path:
        """Return an empty folder, readable by the user alone, that `keep` makes ours. Raise `OSError`."""
        remove_stale()
        name = f"{os.getpid()}-{_started(os.getpid())}-{next(_numbers)}"
        return paths.make_private(_home() / name)

    def keep(self, folder: Path) -> None:
        """Use `folder` from now on, and remove the one before."""
        before, self.folder = self.folder, folder
        if before is not None:
            remove(before)

    def clear(self) -> None:
        """Remove what is ours and what the dead left."""
        if self.folder is not None:
            remove(self.folder)
            self.folder = None
            remove_stale()


def remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # not empty: somebody else's are there
        folder.parent.rmdir()


def remove_stale() -> None:
    """Remove the folders of processes that are gone."""
    for folder in _folders():
        pid, _, rest = folder.name.partition("-")
        if not (pid.isdigit() and rest.partition("-")[0] == _started(int(pid))):
            shutil.rmtree(folder, ignore_errors=True)


def _folders() -> Iterator[Path]:
    with suppress(OSError):
        yield from [entry for entry in _home().iterdir() if not entry.is_symlink()]


def _started(pid: int) -> str:
    """Return when a process started, which tells it from a later one of the same number; "" if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        return stat.rpartition(")")[2].split()[_STARTED]
    except (OSError, IndexError):
        return ""


def _home() -> Path:
    return paths.cache_dir() / "parked"

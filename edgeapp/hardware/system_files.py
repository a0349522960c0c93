"""Read the kernel's small text files. A file that is not there is empty."""

from __future__ import annotations

from pathlib import Path

PROC = Path("/proc")
SYS = Path("/sys")


def lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def first_line(path: Path) -> str:
    return next(iter(lines(path)), "").strip()

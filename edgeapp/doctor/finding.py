"""What a check found, and how sizes and paths are written in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgeapp.cleantext import clean_line

if TYPE_CHECKING:
    from pathlib import Path

Level = Literal["ok", "warn", "fail"]
GIB = 1024**3


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found. `fix` is empty when there is nothing to do."""

    check: str
    level: Level
    found: str
    fix: str = ""


def in_gib(size_bytes: int) -> str:
    return f"{size_bytes / GIB:.1f} GiB"


def shown(path: Path) -> str:
    return clean_line(str(path))

"""Write a file as a kernel would show it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def put(machine: Path, path: str, text: str) -> None:
    file = machine / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)

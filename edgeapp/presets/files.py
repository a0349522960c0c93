"""Read a text file of a preset, with a cap on its size. Knows no format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.cleantext import clean_line
from edgeapp.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def read_capped(path: Path, *, max_bytes: int) -> str:
    """Return the UTF-8 text of `path`. Raise `ConfigError`."""
    shown = clean_line(str(path))
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as problem:
        raise ConfigError(f"{shown} cannot be read: {problem.strerror or problem}.") from problem
    if len(data) > max_bytes:
        raise ConfigError(f"{shown} is larger than {max_bytes} bytes, the most for such a file.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise ConfigError(f"{shown} is not UTF-8 text (byte {problem.start}).") from problem

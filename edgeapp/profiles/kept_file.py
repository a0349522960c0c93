"""Small JSON files under the cache folder. What cannot be read is as good as not there, but it is said."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

import msgspec

from edgeapp import durable, paths
from edgeapp.cleantext import clean_line

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger(__name__)
_MAX_BYTES = 1 << 20
Kept = TypeVar("Kept", bound=msgspec.Struct)


def folder() -> Path:
    """Return where all of it is kept."""
    return paths.cache_dir() / "profiles"


def read(path: Path, kind: type[Kept]) -> Kept | None:
    """Return what `path` holds, None when there is nothing; a damaged file is None with a warning."""
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(_MAX_BYTES), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, msgspec.MsgspecError) as problem:
        _log.warning(
            "what was measured before is left out: %s cannot be read (%s)",
            clean_line(path.name),
            clean_line(str(problem)),
        )
        return None


def write(path: Path, value: msgspec.Struct) -> None:
    """Replace `path`, so that a reader never sees half of it. Raise `OSError`."""
    durable.write(path, msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n")

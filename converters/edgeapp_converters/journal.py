"""Which pieces of a file are on the disk: a line for each batch, written only after the data is there.

Lines are JSON. The first names the conversion; the others are lists of [piece, CRC-32 of its bytes]. A CRC
is enough, because it guards against a power cut and a failing disk, not against an enemy. A line that was cut
off ends the journal: what it said is done again. Knows neither pieces' places nor the data file.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_FORMAT = 1


class Journal:
    """The journal at `path` of the conversion `identity`. Used by one process at a time; raises `OSError`."""

    def __init__(self, path: Path, *, identity: str) -> None:
        self.path = path
        self.read_bytes = 0
        """How far `batches` has come."""
        self._first_line = _line({"format": _FORMAT, "identity": identity})
        self._file = os.fdopen(
            os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644), "r+b"
        )

    @property
    def is_ours(self) -> bool:
        """Whether it was written by the same conversion."""
        self._file.seek(0)
        return self._file.readline(len(self._first_line) + 1) == self._first_line

    @property
    def size_bytes(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def restart(self) -> None:
        """Forget everything and begin anew."""
        self._file.seek(0)
        self._file.truncate()
        self._file.write(self._first_line)
        self._sync()

    def batches(self) -> Iterator[list[tuple[int, int]]]:
        """Yield (piece, CRC-32) as written, then make ready to append behind the last whole line."""
        self.read_bytes = self._file.seek(len(self._first_line))
        while (batch := _batch(line := self._file.readline())) is not None:
            self.read_bytes += len(line)
            yield batch
        self._file.seek(self.read_bytes)
        self._file.truncate()

    def append(self, batch: Sequence[tuple[int, int]]) -> None:
        """Add a line and see that it reaches the disk. The pieces' bytes must be there before."""
        self._file.write(_line([list(entry) for entry in batch]))
        self._sync()

    def close(self) -> None:
        self._file.close()

    def _sync(self) -> None:
        self._file.flush()
        os.fdatasync(self._file.fileno())


def _line(content: object) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"


def _batch(line: bytes) -> list[tuple[int, int]] | None:
    """Parse a line; None for the end of the file and for a line that was cut off or damaged."""
    if not line.endswith(b"\n"):
        return None
    try:
        entries = json.loads(line)
    except ValueError:
        return None
    if not isinstance(entries, list) or not all(map(_is_entry, entries)):
        return None
    return [(piece, crc) for piece, crc in entries]


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) == 2  # noqa: PLR2004 - a piece and its CRC
        and all(type(number) is int and number >= 0 for number in entry)
    )

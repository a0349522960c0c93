"""Which pieces of an earlier run stand in the part as that run wrote them. Writes nothing.

Every piece is read again and its CRC compared, not a sample of them: that is many times faster than
converting it again, and a damaged block on the disk is found before the file takes its final name.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from typing import TYPE_CHECKING

from edgeapp_converters.scratch import Scratch

if TYPE_CHECKING:
    from edgeapp_converters.header import Header
    from edgeapp_converters.journal import Journal
    from edgeapp_converters.meter import Meter
    from edgeapp_converters.partial_gguf import PartialGguf
    from edgeapp_converters.pieces import Piece, Schedule


def mark_earlier_pieces(
    done: bytearray, *, part: PartialGguf, journal: Journal, schedule: Schedule, header: Header, meter: Meter
) -> int:
    """Set the bytes in `done` of the pieces that are intact; return how many were found damaged.

    `meter` counts bytes of the journal.
    """
    find = _Finder(schedule)
    scratch = Scratch()
    damaged = set()
    for batch in journal.batches():
        for number, crc in batch:
            if number >= len(done) or done[number]:
                continue
            piece = find.piece(number)
            if _crc(piece, part, header, scratch) == crc:
                done[number] = 1
                damaged.discard(number)
            else:
                damaged.add(number)
        meter.reached(journal.read_bytes)
    return len(damaged)


def _crc(piece: Piece, part: PartialGguf, header: Header, scratch: Scratch) -> int | None:
    offset_bytes, n_bytes = header.place_of_rows(piece.tensor, piece.target_row, piece.n_rows)
    stored = scratch.octets("stored", n_bytes)
    return zlib.crc32(stored.data) if part.read_into(stored.data, offset_bytes) else None


class _Finder:
    """Pieces by their number."""

    def __init__(self, schedule: Schedule) -> None:
        self._runs = [run for run in schedule.runs() if run.n_pieces]
        self._starts = [run.first_piece for run in self._runs]

    def piece(self, number: int) -> Piece:
        return self._runs[bisect_right(self._starts, number) - 1].piece(number)

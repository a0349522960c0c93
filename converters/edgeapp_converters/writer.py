"""Write a GGUF file from a plan in one pass over the source, and go on with it after an interruption.

Pieces are converted by threads and stand at their final place at once, so nothing is ever held but the pieces
in work, and the file is the same for any number of threads. A journal says which pieces are on the disk; a
run that finds it reads those again, compares their CRC, and does the rest. Knows no family and no recipe.
"""

from __future__ import annotations

import itertools
import time
import zlib
from collections import deque
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeapp.cleantext import clean_line
from edgeapp.errors import ConversionFailed
from edgeapp_converters import ggml
from edgeapp_converters.crew import work_through
from edgeapp_converters.encode import encode, encode_rows
from edgeapp_converters.events import Warned
from edgeapp_converters.header import build_header
from edgeapp_converters.identity import identity
from edgeapp_converters.journal import Journal
from edgeapp_converters.meter import Meter
from edgeapp_converters.partial_gguf import PartialGguf, translated
from edgeapp_converters.pieces import pieces_left, schedule
from edgeapp_converters.resume import mark_earlier_pieces

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from edgeapp_converters.events import Report
    from edgeapp_converters.header import Header
    from edgeapp_converters.imatrix import Imatrix
    from edgeapp_converters.metadata import Metadata
    from edgeapp_converters.pieces import Piece, Schedule, Step
    from edgeapp_converters.plan import TypedTensor
    from edgeapp_converters.scratch import Scratch
    from edgeapp_converters.source import TensorSource

__all__ = ["PartialGguf", "write_gguf"]

_BATCH_BYTES = 64 << 20
_BATCH_S = 2.0


def write_gguf(
    target: Path,
    *,
    metadata: Metadata,
    tensors: Sequence[TypedTensor],
    source: TensorSource,
    imatrix: Imatrix | None,
    n_threads: int,
    fingerprint: str,
    report: Report,
) -> PartialGguf:
    """Write all of the file for `target` under its temporary name, going on with an earlier part of the same.

    `fingerprint` stands for what decides the source's bytes. Progress counts bytes of the source. Raise
    `NotEnoughDisk` before any work, `InvalidCheckpoint` for damaged weights, `ConversionFailed` for what the
    disk refuses; the part and its journal stay, and so they do at Ctrl-C.
    """
    header = build_header(metadata, tensors)
    job = _Job(
        header=header,
        tensors=tensors,
        schedule=schedule(tensors, source),
        identity=identity(header, tensors, imatrix, fingerprint=fingerprint),
        source=source,
        imatrix=imatrix,
        report=report,
    )
    part = PartialGguf(target, header)
    try:
        _write(part, job, max(1, n_threads))
    except BaseException:
        part.close()
        raise
    return part


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """What is to be written."""

    header: Header
    tensors: Sequence[TypedTensor]
    schedule: Schedule
    identity: str
    source: TensorSource
    imatrix: Imatrix | None
    report: Report


@dataclass(frozen=True, kw_only=True, slots=True)
class _Written:
    """A piece that stands in the file, though perhaps not yet on the disk."""

    number: int
    crc: int
    n_bytes: int
    source_bytes: int


def _write(part: PartialGguf, job: _Job, n_threads: int) -> None:
    ggml.prepare({tensor.type for tensor in job.tensors})
    with translated(part.journal_path):
        journal = Journal(part.journal_path, identity=job.identity)
    with closing(journal):
        is_resumed = _begin(part, journal, job)
        writing = _Writing(part, journal, job)
        if is_resumed:
            writing.resume()
        writing.convert(n_threads)
    ggml.free()


def _begin(part: PartialGguf, journal: Journal, job: _Job) -> bool:
    """Reserve the disk space; tell whether an earlier run of the same conversion left something."""
    is_resumed = journal.is_ours and not part.is_new
    if not is_resumed:
        if not part.is_new:
            job.report(
                Warned(message=f"{clean_line(part.path.name)} is of another conversion and is started anew.")
            )
        part.empty()
        with translated(journal.path):
            journal.restart()
    part.reserve()
    return is_resumed


class _Writing:
    """The pieces of one run on their way to the disk."""

    def __init__(self, part: PartialGguf, journal: Journal, job: _Job) -> None:
        self._part = part
        self._journal = journal
        self._job = job
        self._done = bytearray(job.schedule.n_pieces)
        self._written: deque[_Written] = deque()
        """By the threads, and not yet seen by the one that keeps the journal."""
        self._batch: list[_Written] = []
        self._batch_started_s = time.monotonic()

    def resume(self) -> None:
        """Find out what an earlier run has done."""
        meter = Meter(
            "checking",
            total=self._journal.size_bytes,
            unit="steps",
            report=self._job.report,
            label="what an earlier run wrote",
        )
        with translated(self._journal.path):
            n_damaged = mark_earlier_pieces(
                self._done,
                part=self._part,
                journal=self._journal,
                schedule=self._job.schedule,
                header=self._job.header,
                meter=meter,
            )
        meter.finish()
        if n_damaged:
            self._job.report(
                Warned(
                    message=f"{n_damaged} pieces that an earlier run wrote are damaged and are made again.",
                    hint="Check the disk, should that happen more than once.",
                )
            )

    def convert(self, n_threads: int) -> None:
        """Do all pieces that are left, shard by shard."""
        work = self._job.schedule
        left_bytes = sum(piece.source_bytes for piece in pieces_left(work.runs(), self._done))
        meter = Meter(
            "converting",
            total=work.source_bytes,
            unit="bytes",
            report=self._job.report,
            done=work.source_bytes - left_bytes,
        )
        try:
            for step in work.steps:
                self._convert_step(step, n_threads, meter)
        finally:
            self._take_written()
            self._flush()
        meter.finish()

    def _convert_step(self, step: Step, n_threads: int, meter: Meter) -> None:
        pieces = pieces_left(step.runs, self._done)
        first = next(pieces, None)
        if first is not None:
            for shard in step.needed:
                self._job.source.fetch(shard)
            tasks = itertools.chain((first,), pieces)
            with closing(work_through(tasks, self._write_piece, n_threads=n_threads)) as ticks:
                for _ in ticks:
                    self._flush_now_and_then()
                    meter.advance(self._take_written())
            meter.advance(self._take_written())
            self._flush()  # a shard that is given back may be deleted: nothing of it may be lost after that
        for shard in step.finished:
            self._job.source.release(shard)

    def _write_piece(self, piece: Piece, scratch: Scratch) -> None:
        data = self._encoded(piece, scratch)
        place = self._job.header.place_of_rows(piece.tensor, piece.target_row, piece.n_rows)
        self._part.write(data.data, place[0])
        self._written.append(
            _Written(
                number=piece.number,
                crc=zlib.crc32(data.data),
                n_bytes=data.nbytes,
                source_bytes=piece.source_bytes,
            )
        )

    def _encoded(self, piece: Piece, scratch: Scratch) -> npt.NDArray[np.uint8]:
        tensor = self._job.tensors[piece.tensor]
        importance = self._importance(tensor, piece)
        if piece.part is not None:
            place = (piece.first, piece.n_rows)
            return encode_rows(self._job.source, tensor, piece.part, *place, importance, scratch)
        values = np.ascontiguousarray(tensor.plan.values, np.float32).reshape(-1, tensor.plan.columns)
        rows = values[piece.first : piece.first + piece.n_rows]
        return encode(tensor, rows, float(np.abs(rows).max(initial=0)), importance, scratch)

    def _importance(self, tensor: TypedTensor, piece: Piece) -> npt.NDArray[np.float32] | None:
        if self._job.imatrix is None or ggml.block_size(tensor.type) == 1:
            return None
        expert = piece.part.expert if piece.part else 0
        name, columns = tensor.plan.name, tensor.plan.columns
        try:
            row = self._job.imatrix.row(name, expert, columns=columns)
        except IndexError as problem:
            raise _misfit(name, f"no expert {expert}") from problem
        if row is not None and row.size != columns:
            raise _misfit(name, f"{row.size} columns, not {columns},")
        return row

    def _take_written(self) -> int:
        """Put what the threads have written into the batch; return its bytes of the source."""
        n_bytes = 0
        while self._written:
            piece = self._written.popleft()
            self._batch.append(piece)
            n_bytes += piece.source_bytes
        return n_bytes

    def _flush_now_and_then(self) -> None:
        is_large = sum(piece.n_bytes for piece in self._batch) >= _BATCH_BYTES
        if is_large or time.monotonic() - self._batch_started_s >= _BATCH_S:
            self._flush()

    def _flush(self) -> None:
        """Bring the batch to the disk: first the data, then the journal that says so."""
        if self._batch:
            self._part.sync_data()
            with translated(self._journal.path):
                self._journal.append([(piece.number, piece.crc) for piece in self._batch])
        self._batch = []
        self._batch_started_s = time.monotonic()


def _misfit(name: str, what: str) -> ConversionFailed:
    return ConversionFailed(
        f"The importance matrix has {what} for {clean_line(name)}.",
        hint="It was made for another model. Make one with --calibrate TEXT.",
    )

"""Cut a file's tensors into pieces of work, in the order of the source's shards. Pure: reads no file.

A piece is some rows of one part: about half a million numbers, or one row if that is longer. Pieces are
numbered through in working order; the same plan always has the same pieces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeapp.cleantext import clean_line
from edgeapp.errors import ConversionFailed
from edgeapp_converters import dtypes
from edgeapp_converters.plan import Encoding

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from edgeapp_converters.plan import Part, TensorPlan, TypedTensor
    from edgeapp_converters.source import SourceTensor, TensorSource

PIECE_ELEMENTS = 1 << 19
"""Of a piece: 2 MiB as F32, and some tens of milliseconds of Q4_K."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Piece:
    """Rows `first` to `first + n_rows` of a part, or of computed values when `part` is None."""

    number: int
    tensor: int
    """Its place in the file."""
    part: Part | None
    first: int
    n_rows: int
    source_bytes: int

    @property
    def target_row(self) -> int:
        return self.first + (self.part.target_row if self.part else 0)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Run:
    """All pieces of one part, numbered from `first_piece` on."""

    first_piece: int
    tensor: int
    part: Part | None
    n_rows: int
    rows_per_piece: int
    row_source_bytes: int

    @property
    def n_pieces(self) -> int:
        return -(-self.n_rows // self.rows_per_piece)

    def piece(self, number: int) -> Piece:
        """Return the piece with this number, which must be one of the run's."""
        first = (number - self.first_piece) * self.rows_per_piece
        n_rows = min(self.rows_per_piece, self.n_rows - first)
        return Piece(
            number=number,
            tensor=self.tensor,
            part=self.part,
            first=first,
            n_rows=n_rows,
            source_bytes=n_rows * self.row_source_bytes,
        )

    def pieces(self) -> Iterator[Piece]:
        return map(self.piece, range(self.first_piece, self.first_piece + self.n_pieces))


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What can be done once `shard` is there, besides those of earlier steps that are still `needed`."""

    shard: str
    runs: tuple[Run, ...]
    needed: tuple[str, ...]
    """All shards that the runs read from."""
    finished: tuple[str, ...]
    """Shards that no later step reads from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """All work, in order."""

    steps: tuple[Step, ...]
    n_pieces: int
    source_bytes: int

    def runs(self) -> Iterator[Run]:
        return (run for step in self.steps for run in step.runs)


def schedule(tensors: Sequence[TypedTensor], source: TensorSource) -> Schedule:
    """Order the work so that each shard is fetched once and given back as early as can be.

    A part that reads from two shards (weights and scales) waits for the later one. Raise `ConversionFailed`
    for a plan whose parts leave out rows of a tensor or give some twice.
    """
    order = {shard: place for place, shard in enumerate(source.shards)}
    waiting: list[list[tuple[int, int, Part | None]]] = [[] for _ in order] or [[]]
    for number, tensor in enumerate(tensors):
        _require_complete(tensor.plan)
        for part in tensor.plan.parts or (None,):
            shards = _shards_of(part, source.tensors)
            place = max((order[shard] for shard in shards), default=0)
            offset = source.tensors[part.source].offset_bytes if part else -1
            waiting[place].append((offset, number, part))
    return _numbered(waiting, tensors, source)


def _numbered(
    waiting: Sequence[list[tuple[int, int, Part | None]]],
    tensors: Sequence[TypedTensor],
    source: TensorSource,
) -> Schedule:
    steps_runs, n_pieces, n_bytes = [], 0, 0
    for work in waiting:
        runs = []
        for _, number, part in sorted(work, key=lambda item: (item[0], item[1])):
            run = _run(n_pieces, number, part, tensors[number].plan, source)
            n_pieces += run.n_pieces
            n_bytes += run.n_rows * run.row_source_bytes
            runs.append(run)
        steps_runs.append(tuple(runs))
    steps = _steps(steps_runs, source)
    return Schedule(steps=steps, n_pieces=n_pieces, source_bytes=n_bytes)


def _run(first_piece: int, tensor: int, part: Part | None, plan: TensorPlan, source: TensorSource) -> Run:
    return Run(
        first_piece=first_piece,
        tensor=tensor,
        part=part,
        n_rows=part.n_rows if part else plan.n_rows,
        rows_per_piece=max(1, PIECE_ELEMENTS // max(plan.columns, 1)),
        row_source_bytes=_row_source_bytes(part, plan.columns, source.tensors),
    )


def _steps(steps_runs: Sequence[tuple[Run, ...]], source: TensorSource) -> tuple[Step, ...]:
    needed = [
        tuple(sorted({shard for run in runs for shard in _shards_of(run.part, source.tensors)}))
        for runs in steps_runs
    ]
    shards = source.shards or ("",)
    last = {shard: place for place, shard in enumerate(shards)}
    for place, names in enumerate(needed):
        last |= {name: max(last[name], place) for name in names}
    return tuple(
        Step(
            shard=shards[place],
            runs=steps_runs[place],
            needed=needed[place],
            finished=tuple(name for name in source.shards if last[name] == place),
        )
        for place in range(len(shards))
    )


def _row_source_bytes(part: Part | None, columns: int, tensors: Mapping[str, SourceTensor]) -> int:
    if part is None:
        return 4 * columns
    if part.encoding is Encoding.MXFP4:
        return columns // 2
    dtype = tensors[part.source].dtype
    return (
        columns * dtypes.stored_row_bytes(dtype, 1)
        if part.transposed
        else dtypes.stored_row_bytes(dtype, columns)
    )


def _shards_of(part: Part | None, tensors: Mapping[str, SourceTensor]) -> set[str]:
    names = (part.source, part.scale) if part else ()
    return {tensors[name].shard for name in names if name is not None}


def _require_complete(plan: TensorPlan) -> None:
    if plan.values is not None:
        if plan.values.size != plan.n_elements:
            raise _incomplete(plan, plan.values.size // max(plan.columns, 1))
        return
    for part in plan.parts:
        _require_inside(plan, part)
    reached = 0
    for start, n_rows in sorted((part.target_row, part.n_rows) for part in plan.parts):
        if start != reached:
            raise _incomplete(plan, min(start, reached))
        reached += n_rows
    if reached != plan.n_rows:
        raise _incomplete(plan, min(reached, plan.n_rows))


def _require_inside(plan: TensorPlan, part: Part) -> None:
    """An index beyond a row or an order of another length would silently take other numbers."""
    orders = ((part.row_order, part.n_rows, None), (part.column_order, plan.columns, plan.columns))
    is_wrong = part.transposed and part.first_row + (part.n_rows - 1) * part.row_step >= part.source_columns
    for order, count, limit in orders:
        if order is None or not count:
            continue
        is_wrong |= len(order) != count or int(order.min()) < 0
        is_wrong |= limit is not None and int(order.max()) >= limit
    if is_wrong:
        raise ConversionFailed(
            f"The plan for {clean_line(plan.name)} takes numbers from outside of {clean_line(part.source)}."
        )


def _incomplete(plan: TensorPlan, row: int) -> ConversionFailed:
    return ConversionFailed(
        f"The plan for {clean_line(plan.name)} does not say once and only once what row {row} "
        f"of {plan.n_rows} is made of."
    )


def pieces_left(runs: Iterable[Run], done: bytearray) -> Iterator[Piece]:
    """Yield the pieces whose byte in `done` is 0."""
    return (piece for run in runs for piece in run.pieces() if not done[piece.number])

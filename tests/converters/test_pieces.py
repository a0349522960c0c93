"""The order of work, and plans that leave something out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from hypothesis import given
from hypothesis import strategies as st

from edgeapp.errors import ConversionFailed
from edgeapp_converters.pieces import PIECE_ELEMENTS, pieces_left, schedule
from edgeapp_converters.plan import Encoding, Part, TensorPlan, TypedTensor
from tests.converters.raw_source import RawSource, typed, whole

if TYPE_CHECKING:
    from pathlib import Path

Q = GGMLQuantizationType


def _three_shards(tmp_path: Path) -> RawSource:
    source = RawSource(tmp_path, ("one", "two", "three"))
    source.declare("a", "F8_E4M3", (4, 8), 32, 32, shard="one")
    source.declare("a_scale", "F32", (1, 1), 0, 4, shard="three")
    source.declare("b", "BF16", (4, 8), 0, 64, shard="two")
    source.declare("c", "F32", (4, 8), 0, 128, shard="one")
    return source


def test_a_part_waits_for_the_last_of_its_shards_and_holds_the_others(tmp_path: Path) -> None:
    scaled = Part(source="a", target_row=0, n_rows=4, encoding=Encoding.FP8_BLOCK, scale="a_scale")
    tensors = [
        typed("x", (4, 8), Q.F32, scaled),
        typed("y", (8, 8), Q.F32, whole("b", 4), whole("c", 4, target_row=4)),
    ]
    one, two, three = schedule(tensors, _three_shards(tmp_path)).steps
    assert [run.part.source for run in one.runs if run.part] == ["c"]
    assert (one.needed, one.finished) == (("one",), ())
    assert (two.needed, two.finished) == (("two",), ("two",))
    assert three.needed == ("one", "three")
    assert set(three.finished) == {"one", "three"}


def test_within_a_shard_the_work_follows_the_bytes(tmp_path: Path) -> None:
    tensors = [typed("x", (4, 8), Q.F32, whole("a", 4)), typed("y", (4, 8), Q.F32, whole("c", 4))]
    first = schedule(tensors, _three_shards(tmp_path)).steps[0]
    assert [run.part.source for run in first.runs if run.part] == ["c", "a"]


def test_bytes_are_counted_as_the_source_stores_them(tmp_path: Path) -> None:
    tensors = [typed("x", (4, 8), Q.F32, whole("b", 4)), typed("y", (4, 8), Q.F32, whole("c", 4))]
    assert schedule(tensors, _three_shards(tmp_path)).source_bytes == 64 + 128


@given(n_rows=st.integers(1, 3000), columns=st.sampled_from([32, 1000, PIECE_ELEMENTS, PIECE_ELEMENTS + 1]))
def test_pieces_cover_every_row_once_and_stay_small(n_rows: int, columns: int) -> None:
    values = np.broadcast_to(np.float32(0), (n_rows, columns))
    plan = TensorPlan(name="x", shape=(n_rows, columns), values=values)
    work = schedule([TypedTensor(plan=plan, type=Q.F32, wanted=Q.F32)], _NoSource())
    pieces = list(pieces_left(work.runs(), bytearray(work.n_pieces)))
    rows = [row for piece in pieces for row in range(piece.first, piece.first + piece.n_rows)]
    assert rows == list(range(n_rows))
    assert [piece.number for piece in pieces] == list(range(work.n_pieces))
    assert all(piece.n_rows == 1 or piece.n_rows * columns <= PIECE_ELEMENTS for piece in pieces)


@pytest.mark.parametrize("rows", [(0, 3), (0, 5), (1, 3), (0, 2, 1, 2), (0, 2, 3, 1), (0, 2, 1, 3)])
def test_rows_left_out_or_given_twice_are_refused(tmp_path: Path, rows: tuple[int, ...]) -> None:
    parts = [
        Part(source="c", target_row=start, n_rows=count)
        for start, count in zip(rows[::2], rows[1::2], strict=True)
    ]
    with pytest.raises(ConversionFailed, match="once and only once"):
        schedule([typed("x", (4, 8), Q.F32, *parts)], _three_shards(tmp_path))


@pytest.mark.parametrize(
    "part",
    [
        Part(source="c", target_row=0, n_rows=4, row_order=np.arange(3)),
        Part(source="c", target_row=0, n_rows=4, row_order=np.arange(4) - 1),
        Part(source="c", target_row=0, n_rows=4, column_order=np.arange(7)),
        Part(source="c", target_row=0, n_rows=4, column_order=np.arange(8) + 1),
        Part(source="c", target_row=0, n_rows=4, transposed=True, source_columns=4, first_row=1),
    ],
)
def test_indices_outside_of_the_source_are_refused(tmp_path: Path, part: Part) -> None:
    with pytest.raises(ConversionFailed, match="takes numbers from outside of c"):
        schedule([typed("x", (4, 8), Q.F32, part)], _three_shards(tmp_path))


class _NoSource(RawSource):
    def __init__(self) -> None:
        self.shards = ()
        self.tensors = {}

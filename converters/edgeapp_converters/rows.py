"""A part's rows as numbers: fetched, widened to F32, scaled, put in order and checked. Writes no file.

Every part of a plan is understood here and only here. Memory is bounded by what the caller asks for at once:
the rows, the same rows as they are stored, and at most four more MiB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

import numpy as np
from gguf import GGMLQuantizationType

from edgeapp.cleantext import clean_line
from edgeapp.errors import InvalidCheckpoint, UnsupportedCheckpoint
from edgeapp_converters import dtypes, ggml, mxfp4
from edgeapp_converters.block_scales import multiply_by_scales
from edgeapp_converters.byte_rows import read_byte_rows, read_window
from edgeapp_converters.plan import ElementMap, Encoding
from edgeapp_converters.scratch import Scratch

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgeapp_converters.plan import Part
    from edgeapp_converters.source import TensorSource

_ELEMENTS_AT_ONCE = 1 << 18
"""Of a source that is transposed: 1 MiB of F32."""


def read_rows(  # noqa: PLR0917 - source, place, shape, destination: the order of the words
    source: TensorSource,
    part: Part,
    first: int,
    n: int,
    columns: int,
    out: npt.NDArray[np.float32],
    *,
    scratch: Scratch | None = None,
) -> float:
    """Fill `out` (contiguous, n × columns F32) with rows `first` to `first + n` of `part`.

    Return the largest magnitude. Widening is exact but for F64, which is rounded. Raise `InvalidCheckpoint`
    for missing bytes, scales that do not fit and numbers that are NaN or infinite, `UnsupportedCheckpoint`
    for number formats that are not known.
    """
    scratch = scratch or Scratch()
    rows = out.reshape(n, columns)
    if part.transposed:
        _read_columns(source, part, first, rows, scratch)
    else:
        _read_plain_rows(source, part, row_numbers(part, first, n), rows, scratch)
    if part.column_order is not None:
        ordered = scratch.floats("ordered", rows.size).reshape(rows.shape)
        np.take(rows, part.column_order, axis=1, out=ordered, mode="clip")
        rows[:] = ordered
    _apply(part.element_map, rows)
    return require_finite(rows, part, first)


def row_numbers(part: Part, first: int, n: int) -> npt.NDArray[np.int64]:
    """Return which source rows (columns, if transposed) rows `first` to `first + n` of `part` come from."""
    if part.row_order is not None:
        return np.asarray(part.first_row + part.row_order[first : first + n], np.int64)
    return part.first_row + np.arange(first, first + n, dtype=np.int64) * part.row_step


def require_finite(rows: npt.NDArray[np.float32], part: Part, first: int) -> float:
    """Return the largest magnitude in `rows` [n, columns]. Raise `InvalidCheckpoint` for NaN and infinity."""
    if not rows.size:
        return 0.0
    magnitude = max(float(rows.max()), -float(rows.min()))
    if magnitude < np.inf:
        return magnitude
    row = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
    raise not_finite(part, first + row)


def not_finite(part: Part, row: int) -> InvalidCheckpoint:
    """The error for row `row` of `part`, which holds NaN or infinity."""
    number = int(row_numbers(part, row, 1)[0])
    place = "column" if part.transposed else "row"
    return InvalidCheckpoint(
        f"{clean_line(part.source)} has a number that is NaN or infinite in {place} {number}.",
        hint="The checkpoint is damaged, or its training diverged. Download it again.",
    )


def read_mxfp4_blocks(
    source: TensorSource,
    part: Part,
    numbers: npt.NDArray[np.int64],
    into: npt.NDArray[np.uint8],
    scratch: Scratch,
) -> None:
    """Fill `into` (contiguous) with rows `numbers` of an MXFP4 part as ggml's blocks, moved bit for bit.

    Raise `InvalidCheckpoint` for an exponent that stands for NaN.
    """
    n_blocks = into.size // mxfp4.GGML_BLOCK_BYTES
    row_blocks = n_blocks // max(len(numbers), 1)
    stored = scratch.octets("stored", n_blocks * mxfp4.STORED_BLOCK_BYTES).reshape(len(numbers), -1)
    exponents = scratch.octets("exponents", n_blocks).reshape(len(numbers), row_blocks)
    read_byte_rows(source, source.tensors[part.source], numbers, stored, scratch)
    read_byte_rows(source, source.tensors[part.scale or ""], numbers, exponents, scratch)
    if n_blocks and exponents.max() == mxfp4.NAN_EXPONENT:
        raise InvalidCheckpoint(f"{clean_line(part.scale or '')} has an exponent that stands for NaN.")
    mxfp4.to_ggml(
        stored.reshape(-1, mxfp4.STORED_BLOCK_BYTES),
        exponents.reshape(-1),
        into.reshape(-1, mxfp4.GGML_BLOCK_BYTES),
    )


def _read_plain_rows(
    source: TensorSource,
    part: Part,
    numbers: npt.NDArray[np.int64],
    rows: npt.NDArray[np.float32],
    scratch: Scratch,
) -> None:
    if part.encoding is Encoding.MXFP4:
        n_bytes = len(rows) * ggml.row_bytes(GGMLQuantizationType.MXFP4, rows.shape[1])
        blocks = scratch.octets("blocks", n_bytes)
        read_mxfp4_blocks(source, part, numbers, blocks, scratch)
        ggml.widen(GGMLQuantizationType.MXFP4, blocks, rows)
        return
    tensor = source.tensors[part.source]
    row_bytes = dtypes.stored_row_bytes(tensor.dtype, rows.shape[1])
    if tensor.dtype == "F32":
        read_byte_rows(source, tensor, numbers, rows.view(np.uint8), scratch)
    else:
        stored = scratch.octets("stored", len(rows) * row_bytes).reshape(len(rows), row_bytes)
        read_byte_rows(source, tensor, numbers, stored, scratch)
        dtypes.decode(tensor.dtype, stored, rows)
    if part.encoding is Encoding.FP8_BLOCK:
        multiply_by_scales(source, part, numbers, rows)


def _read_columns(
    source: TensorSource, part: Part, first: int, rows: npt.NDArray[np.float32], scratch: Scratch
) -> None:
    """Columns of the source become `rows`; a few source rows at a time, and of them what is needed."""
    if part.row_order is not None:
        raise UnsupportedCheckpoint(f"{clean_line(part.source)} is transposed and reordered at once.")
    n, columns = rows.shape
    start = part.first_row + first * part.row_step
    width = (n - 1) * part.row_step + 1
    at_once = max(1, _ELEMENTS_AT_ONCE // max(width, 1))
    for done in range(0, columns, at_once):
        count = min(at_once, columns - done)
        window = scratch.floats("window", count * width).reshape(count, width)
        _read_window(source, part, (part.first_column + done, start), window, scratch)
        rows[:, done : done + count] = window[:, :: part.row_step].T


def _read_window(
    source: TensorSource,
    part: Part,
    corner: tuple[int, int],
    window: npt.NDArray[np.float32],
    scratch: Scratch,
) -> None:
    tensor = source.tensors[part.source]
    if part.encoding is Encoding.MXFP4 or dtypes.is_blocked(tensor.dtype):
        raise UnsupportedCheckpoint(
            f"{clean_line(part.source)} is stored in blocks and cannot be transposed."
        )
    first_row, first_column = corner
    count, width = window.shape
    element_bytes = dtypes.stored_row_bytes(tensor.dtype, 1)
    stored = scratch.octets("stored", count * width * element_bytes).reshape(count, width * element_bytes)
    read_window(
        source,
        tensor,
        first_row=first_row,
        row_bytes=part.source_columns * element_bytes,
        first_byte=first_column * element_bytes,
        into=stored,
        scratch=scratch,
    )
    dtypes.decode(tensor.dtype, stored, window)
    if part.encoding is Encoding.FP8_BLOCK:
        numbers = np.arange(first_row, first_row + count, dtype=np.int64)
        multiply_by_scales(source, part, numbers, window, first_column=first_column)


def _apply(element_map: ElementMap, rows: npt.NDArray[np.float32]) -> None:
    match element_map:
        case ElementMap.NONE:
            pass
        case ElementMap.ADD_ONE:
            rows += 1
        case ElementMap.NEG_EXP:
            with np.errstate(over="ignore"):  # becomes infinite, which is refused
                # In double precision: numpy's exp for F32 is an ulp off, and differs between CPUs.
                rows[:] = -np.exp(rows.astype(np.float64))
        case _:
            assert_never(element_map)

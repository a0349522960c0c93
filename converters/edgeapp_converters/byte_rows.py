"""Fetch chosen rows of a source tensor as the bytes that are stored, with as few reads as are worth it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgeapp_converters.scratch import Scratch
    from edgeapp_converters.source import SourceTensor, TensorSource

_MAX_GAP_RATIO = 2
"""One read may fetch this many times the rows that are wanted (every second row, heads permuted within)."""
_MAX_SPAN_BYTES = 4 << 20
_PAGE_BYTES = 4096
"""Rows that are shorter are read whole: the kernel reads the page anyway."""
_WORTHWHILE_SHARE = 4
"""A window of at least one such part of a row is read with the whole row."""


def read_byte_rows(
    source: TensorSource,
    tensor: SourceTensor,
    numbers: npt.NDArray[np.int64],
    into: npt.NDArray[np.uint8],
    scratch: Scratch,
) -> None:
    """Fill `into` [n, row_bytes], contiguous, with rows `numbers` of `tensor` seen as rows of `row_bytes`."""
    n, row_bytes = into.shape
    if not n:
        return
    lowest = int(numbers.min())
    span = int(numbers.max()) - lowest + 1
    starts = np.flatnonzero(np.diff(numbers, prepend=numbers[0] - 2) != 1)
    if len(starts) == 1:
        source.read(tensor, lowest * row_bytes, into.data.cast("B"))
    elif span <= _MAX_GAP_RATIO * n and span * row_bytes <= _MAX_SPAN_BYTES:
        around = scratch.octets("span", span * row_bytes)
        source.read(tensor, lowest * row_bytes, around.data)
        np.take(around.reshape(span, row_bytes), numbers - lowest, axis=0, out=into, mode="clip")
    else:
        _read_runs(source, tensor, numbers, starts, into)


def _read_runs(
    source: TensorSource,
    tensor: SourceTensor,
    numbers: npt.NDArray[np.int64],
    starts: npt.NDArray[np.intp],
    into: npt.NDArray[np.uint8],
) -> None:
    row_bytes = into.shape[1]
    view = into.data.cast("B")
    for start, end in zip(starts, [*starts[1:], len(numbers)], strict=True):
        source.read(
            tensor, int(numbers[start]) * row_bytes, view[int(start) * row_bytes : int(end) * row_bytes]
        )


def read_window(
    source: TensorSource,
    tensor: SourceTensor,
    *,
    first_row: int,
    row_bytes: int,
    first_byte: int,
    into: npt.NDArray[np.uint8],
    scratch: Scratch,
) -> None:
    """Fill `into` [n, window_bytes] with the bytes from `first_byte` on of each of `n` rows in sequence."""
    n, window_bytes = into.shape
    if row_bytes <= _PAGE_BYTES or window_bytes * _WORTHWHILE_SHARE >= row_bytes:
        whole = scratch.octets("span", n * row_bytes)
        source.read(tensor, first_row * row_bytes, whole.data)
        into[:] = whole.reshape(n, row_bytes)[:, first_byte : first_byte + window_bytes]
        return
    view = into.data.cast("B")
    for row in range(n):
        source.read(
            tensor,
            (first_row + row) * row_bytes + first_byte,
            view[row * window_bytes : (row + 1) * window_bytes],
        )

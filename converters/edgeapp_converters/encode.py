"""Rows of a GGUF tensor as the bytes that stand in the file: moved if they can be, quantised otherwise.

Bits are moved where source and target have the same format: a number that is widened and rounded back would
be the same, a quantised block might not. Writes no file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from gguf import GGMLQuantizationType

from edgeapp.cleantext import clean_line
from edgeapp.errors import ConversionFailed
from edgeapp_converters import ggml
from edgeapp_converters.byte_rows import read_byte_rows
from edgeapp_converters.plan import ElementMap, Encoding
from edgeapp_converters.rows import not_finite, read_mxfp4_blocks, read_rows, require_finite, row_numbers

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgeapp_converters.plan import Part, TypedTensor
    from edgeapp_converters.scratch import Scratch
    from edgeapp_converters.source import TensorSource

_EXPONENT_BITS = {GGMLQuantizationType.F16: 0x7C00, GGMLQuantizationType.BF16: 0x7F80}
_SIGN_BIT = 0x8000


def encode_rows(  # noqa: PLR0917 - what, where from, how: the order of read_rows
    source: TensorSource,
    tensor: TypedTensor,
    part: Part,
    first: int,
    n: int,
    importance: npt.NDArray[np.float32] | None,
    scratch: Scratch,
) -> npt.NDArray[np.uint8]:
    """Return rows `first` to `first + n` of `part` as `tensor.type`, in a buffer of `scratch`.

    `importance` has one F32 weight for each column. Raise `InvalidCheckpoint` for damaged weights,
    `ConversionFailed` for numbers that the type cannot hold.
    """
    columns = tensor.plan.columns
    if moves_bits(source, part, tensor.type):
        return _move(source, tensor, part, first, n, scratch)
    rows = scratch.floats("rows", n * columns).reshape(n, columns)
    magnitude = read_rows(source, part, first, n, columns, rows, scratch=scratch)
    return encode(tensor, rows, magnitude, importance, scratch)


def encode(
    tensor: TypedTensor,
    rows: npt.NDArray[np.float32],
    magnitude: float,
    importance: npt.NDArray[np.float32] | None,
    scratch: Scratch,
) -> npt.NDArray[np.uint8]:
    """Return finite `rows` [n, columns], none larger than `magnitude`, as `tensor.type`."""
    if tensor.type == GGMLQuantizationType.F32:
        return rows.reshape(-1).view(np.uint8)
    if magnitude > ggml.largest(tensor.type):
        raise _out_of_range(tensor, magnitude)
    n_bytes = len(rows) * ggml.row_bytes(tensor.type, rows.shape[1])
    encoded = scratch.octets("encoded", n_bytes)
    ggml.quantize(tensor.type, rows, encoded, importance)
    if not ggml.is_valid(tensor.type, encoded):
        raise _out_of_range(tensor, magnitude)
    return encoded


def moves_bits(source: TensorSource, part: Part, kind: GGMLQuantizationType) -> bool:
    """Tell whether the source's bytes can stand in a tensor of type `kind` as they are."""
    if part.transposed or part.column_order is not None or part.element_map is not ElementMap.NONE:
        return False
    if part.encoding is Encoding.MXFP4:
        return bool(kind == GGMLQuantizationType.MXFP4)
    dtype: str = kind.name
    return part.encoding is Encoding.PLAIN and source.tensors[part.source].dtype == dtype


def _move(  # noqa: PLR0917 - as encode_rows
    source: TensorSource, tensor: TypedTensor, part: Part, first: int, n: int, scratch: Scratch
) -> npt.NDArray[np.uint8]:
    row_bytes = ggml.row_bytes(tensor.type, tensor.plan.columns)
    moved = scratch.octets("encoded", n * row_bytes).reshape(n, row_bytes)
    numbers = row_numbers(part, first, n)
    if part.encoding is Encoding.MXFP4:
        read_mxfp4_blocks(source, part, numbers, moved, scratch)
    else:
        read_byte_rows(source, source.tensors[part.source], numbers, moved, scratch)
        _require_finite_bytes(tensor, part, first, moved, scratch)
    return moved.reshape(-1)


def _require_finite_bytes(
    tensor: TypedTensor, part: Part, first: int, moved: npt.NDArray[np.uint8], scratch: Scratch
) -> None:
    if tensor.type in _EXPONENT_BITS:
        magnitudes = scratch.octets("magnitudes", moved.size).view(np.uint16).reshape(len(moved), -1)
        np.bitwise_and(moved.view(np.uint16), _SIGN_BIT - 1, out=magnitudes)
        if moved.size and magnitudes.max() >= _EXPONENT_BITS[tensor.type]:
            bad = (magnitudes >= _EXPONENT_BITS[tensor.type]).any(axis=1)
            raise not_finite(part, first + int(np.flatnonzero(bad)[0]))
        return
    rows = scratch.floats("rows", len(moved) * tensor.plan.columns).reshape(len(moved), -1)
    ggml.widen(tensor.type, moved, rows)
    require_finite(rows, part, first)


def _out_of_range(tensor: TypedTensor, magnitude: float) -> ConversionFailed:
    return ConversionFailed(
        f"{clean_line(tensor.plan.name)} has numbers that {tensor.type.name} cannot hold, too large or too "
        f"small; the largest is {magnitude:.6g}.",
        hint="Choose a recipe that gives this tensor BF16 or F32.",
    )

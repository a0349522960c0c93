"""Multiply FP8 weights by the numbers that they share: one for each block, for each matrix, or one alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeapp.cleantext import clean_line
from edgeapp.errors import InvalidCheckpoint
from edgeapp_converters import dtypes

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgeapp_converters.plan import Part
    from edgeapp_converters.source import SourceTensor, TensorSource


def multiply_by_scales(
    source: TensorSource,
    part: Part,
    numbers: npt.NDArray[np.int64],
    rows: npt.NDArray[np.float32],
    *,
    first_column: int = 0,
) -> None:
    """Scale `rows` [n, columns] in place: rows `numbers` of the source, its columns from `first_column` on.

    A weight [.., R, C] has scales [.., ⌈R / r⌉, ⌈C / c⌉] for blocks of r × c, in F32, F16, BF16 or E8M0; or
    one for each matrix, or a single one. Raise `InvalidCheckpoint` for any other count.
    """
    weight, scale = source.tensors[part.source], source.tensors[part.scale or ""]
    matrix = weight.shape[-2:] if len(weight.shape) > 1 else (1, *weight.shape)
    block = _block(weight, scale, matrix, part.scale_block)
    per_matrix, n_columns = (-(-size // step) for size, step in zip(matrix, block, strict=True))
    grid_rows = numbers // matrix[0] * per_matrix + numbers % matrix[0] // block[0]
    if _count(scale.shape) == 1:
        grid_rows = np.zeros_like(grid_rows)
    lowest = int(grid_rows.min())
    grid = _read(source, scale, lowest, int(grid_rows.max()) - lowest + 1, n_columns)
    factors = grid[grid_rows - lowest]
    end = first_column + rows.shape[1]
    for column in range(first_column // block[1], -(-end // block[1])):
        start, stop = max(column * block[1], first_column), min((column + 1) * block[1], end)
        rows[:, start - first_column : stop - first_column] *= factors[:, column : column + 1]


def _block(
    weight: SourceTensor, scale: SourceTensor, matrix: tuple[int, ...], block: tuple[int, int]
) -> tuple[int, ...]:
    """Return the rows and columns that share a scale; the count of scales tells which layout it is."""
    n_matrices = _count(weight.shape) // _count(matrix)
    n_scales = _count(scale.shape)
    if n_scales in {1, n_matrices}:
        return matrix
    expected = n_matrices
    for size, step in zip(matrix, block, strict=True):
        expected *= -(-size // step) if step else 0
    if n_scales != expected:
        raise InvalidCheckpoint(
            f"{clean_line(scale.name)} holds {n_scales} scales where {clean_line(weight.name)} "
            f"with blocks of {block[0]} × {block[1]} needs {expected}."
        )
    return block


def _read(
    source: TensorSource, scale: SourceTensor, first: int, n: int, columns: int
) -> npt.NDArray[np.float32]:
    row_bytes = dtypes.stored_row_bytes(scale.dtype, columns)
    stored = np.empty(n * row_bytes, np.uint8)
    source.read(scale, first * row_bytes, stored.data)
    values = np.empty((n, columns), np.float32)
    dtypes.decode(scale.dtype, stored, values)
    return values


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for dimension in shape:
        count *= dimension
    return count

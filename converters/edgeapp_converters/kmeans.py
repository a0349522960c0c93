"""Group vectors by direction: spherical k-means with k-means++ seeds. Pure; the same input, the same groups.

Sources: Dhillon and Modha, Concept Decompositions for Large Sparse Text Data, 2001; Arthur and Vassilvitskii,
k-means++, 2007, with 1 − cosine as distance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

_MAX_ROUNDS = 15
_ROWS_AT_ONCE = 64
"""So few that BLAS uses one thread: threads cost more than they save here, and change the last bits."""
_SMALLEST_NORM = 1e-6


def cosine_centres(
    rows: npt.NDArray[np.float32], n_groups: int, random: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Return unit vectors [n_groups, d] around which the vectors `rows` [n, d] lie, n ≥ n_groups."""
    unit = unit_rows(rows)
    centres = _seeds(unit, n_groups, random)
    groups = np.full(len(unit), -1)
    for _ in range(_MAX_ROUNDS):
        similarity = products(unit, centres)
        nearest = similarity.argmax(axis=1)
        if np.array_equal(nearest, groups):
            break
        groups = nearest
        centres = _means(unit, groups, n_groups, nearness=similarity.max(axis=1))
    return centres


def products(rows: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return rows · othersᵀ, the same for any number of BLAS threads."""
    result = np.empty((len(rows), len(others)), dtype=np.float32)
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        last = first + _ROWS_AT_ONCE
        np.matmul(rows[first:last], others.T, out=result[first:last])
    return result


def unit_rows(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return each row divided by its length; a row of zeros stays one."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: npt.NDArray[np.float32] = rows / np.maximum(lengths, _SMALLEST_NORM)
    return scaled


def _seeds(
    unit: npt.NDArray[np.float32], n_groups: int, random: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Choose rows as first centres, far ones more likely."""
    chosen = [int(random.integers(len(unit)))]
    similarity = _along(unit, chosen[0])
    while len(chosen) < n_groups:
        weights = np.maximum(1.0 - similarity.astype(np.float64), 0.0) ** 2
        total = weights.sum()
        share = weights / total if total > 0 else None  # all rows are the same: any will do
        chosen.append(int(random.choice(len(unit), p=share)))
        similarity = np.maximum(similarity, _along(unit, chosen[-1]))
    return unit[chosen]


def _along(unit: npt.NDArray[np.float32], index: int) -> npt.NDArray[np.float32]:
    cosines: npt.NDArray[np.float32] = np.einsum("ij,j->i", unit, unit[index])
    return cosines


def _means(
    unit: npt.NDArray[np.float32],
    groups: npt.NDArray[np.intp],
    n_groups: int,
    *,
    nearness: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """Return the groups' mean directions; an empty group begins again at the row that fits worst."""
    sums = np.stack([unit[groups == group].sum(axis=0) for group in range(n_groups)])
    empty = np.flatnonzero(np.bincount(groups, minlength=n_groups) == 0)
    sums[empty] = unit[np.argsort(nearness, kind="stable")[: len(empty)]]
    return unit_rows(sums)

"""How far a measured mean can be from the true one. Pure arithmetic in float64."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_Z_95 = 1.959964  # two-sided 95 % point of the normal distribution


def mean_interval(values: NDArray[np.float64], *, cluster_length: int) -> tuple[float, float]:
    """Return the 95 % interval of the mean of `values`, none below 0, which come in clusters.

    Tokens of one chunk resemble each other: the variance is multiplied by the design effect, the variance of
    the cluster means over what independent values would have (Kish 1965; never below 1).
    """
    mean, variance = float(values.mean()), float(values.var(ddof=1)) if len(values) > 1 else 0.0
    means = values[: len(values) // cluster_length * cluster_length].reshape(-1, cluster_length).mean(axis=1)
    effect = 1.0
    if len(means) > 1 and variance > 0:
        effect = max(1.0, float(means.var(ddof=1)) / (variance / cluster_length))
    half = _Z_95 * math.sqrt(variance * effect / len(values))
    return max(0.0, mean - half), mean + half


def wilson_interval(n_right: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of the share `n_right / n` (Wilson 1927); 0 to 1 when `n` is 0."""
    if n == 0:
        return 0.0, 1.0
    share, spread = n_right / n, _Z_95**2 / n
    middle = share + spread / 2
    half = _Z_95 * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))

"""A copy of a GGUF with slightly other F32 weights, as a quantised model has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from gguf import GGUFReader

if TYPE_CHECKING:
    from pathlib import Path


def write_noisy(model: Path, path: Path, *, noise: float = 0.1, seed: int = 1) -> Path:
    """Multiply every weight of a matrix by 1 ± `noise`."""
    random = np.random.default_rng(seed)
    data = bytearray(model.read_bytes())
    for tensor in GGUFReader(model).tensors:
        if len(tensor.shape) > 1:
            weights = np.frombuffer(data, dtype="<f4", count=tensor.n_elements, offset=tensor.data_offset)
            changed = weights * (1 + noise * random.standard_normal(weights.size))
            data[tensor.data_offset : tensor.data_offset + tensor.n_bytes] = changed.astype("<f4").tobytes()
    path.write_bytes(data)
    return path

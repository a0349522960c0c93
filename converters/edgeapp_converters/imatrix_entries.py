"""The matrices of an importance matrix, computed when they are asked for. A model can have gigabytes of them.

Both mappings keep the last few matrices, because a quantiser asks for one expert after the other. They are
safe to use from several threads.
"""

from __future__ import annotations

import functools
import os
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeapp.errors import InvalidModel

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_N_KEPT = 2


@dataclass(frozen=True, kw_only=True)
class StoredSums:
    """Where a tensor's float32 sums lie in the file."""

    offset_bytes: int
    n_rows: int
    columns: int


class StoredEntries(Mapping[str, "NDArray[np.float32]"]):
    """Sums in a file, divided by `counts`: 1 where nothing was counted, as llama-quantize has it.

    The file stays open as long as this lives, and may be deleted meanwhile.
    """

    def __init__(
        self, path: Path, sums: Mapping[str, StoredSums], counts: Mapping[str, NDArray[np.float32]]
    ) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._fd)
        self._sums = sums
        self._counts = counts
        self._kept = functools.lru_cache(maxsize=_N_KEPT)(self._means)

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        return self._kept(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._sums)

    def __len__(self) -> int:
        return len(self._sums)

    def _means(self, name: str) -> NDArray[np.float32]:
        place, counts = self._sums[name], self._counts[name][:, np.newaxis]
        n_bytes = place.n_rows * place.columns * np.dtype(np.float32).itemsize
        data = os.pread(self._fd, n_bytes, place.offset_bytes)
        if len(data) != n_bytes:
            raise InvalidModel("The importance matrix was cut short while it was used.", hint="Try again.")
        sums = np.frombuffer(data, dtype="<f4").reshape(place.n_rows, place.columns)
        means = np.ones((place.n_rows, place.columns), dtype=np.float32)
        np.divide(sums, counts, out=means, where=counts > 0)
        return means


class ShrunkEntries(Mapping[str, "NDArray[np.float32]"]):
    """`entries` in which an expert's row leans on the mean of its layer with the weight of `k` tokens."""

    def __init__(
        self,
        entries: Mapping[str, NDArray[np.float32]],
        counts: Mapping[str, NDArray[np.float32]],
        k: float,
    ) -> None:
        self._entries = entries
        self._counts = counts
        self._k = k
        self._kept = functools.lru_cache(maxsize=_N_KEPT)(self._shrunk)

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        return self._kept(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def _shrunk(self, name: str) -> NDArray[np.float32]:
        entry, counts = self._entries[name], self._counts[name].astype(np.float64)[:, np.newaxis]
        n_tokens = counts.sum()
        if len(entry) == 1 or n_tokens == 0:
            return entry
        mean = (counts * entry).sum(axis=0) / n_tokens
        shrunk: NDArray[np.float64] = (counts * entry + self._k * mean) / (counts + self._k)
        return shrunk.astype(np.float32)

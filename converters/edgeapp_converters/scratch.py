"""Buffers that one thread uses again for every piece of work, so that memory stays small and mapped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


class Scratch:
    """Named buffers. What a name held before is lost when it is asked for again. Not for several threads."""

    def __init__(self) -> None:
        self._buffers: dict[str, npt.NDArray[np.uint8]] = {}

    def octets(self, name: str, n_bytes: int) -> npt.NDArray[np.uint8]:
        """Return `n_bytes` bytes whose content is not defined."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < n_bytes:
            buffer = self._buffers[name] = np.empty(n_bytes, np.uint8)
        return buffer[:n_bytes]

    def floats(self, name: str, count: int) -> npt.NDArray[np.float32]:
        """Return `count` F32 numbers whose values are not defined."""
        return self.octets(name, 4 * count).view(np.float32)

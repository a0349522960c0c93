"""A `TensorSource` over plain files, strict about fetching and releasing, and tensors to fill it with."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import numpy as np

from edgeapp.errors import InvalidCheckpoint
from edgeapp_converters.plan import Part, TensorPlan, TypedTensor
from edgeapp_converters.source import SourceTensor

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt
    from gguf import GGMLQuantizationType


class RawSource:
    """Tensors in `folder`, one file for each shard. Reading from a shard that is not there is an error."""

    def __init__(self, folder: Path, shards: tuple[str, ...] = ("only",)) -> None:
        self.folder = folder
        self.shards = shards
        self.tensors: dict[str, SourceTensor] = {}
        self.fingerprint = "raw"
        self.log: list[tuple[str, str]] = []
        self.n_reads = 0
        self._files: dict[str, int] = {}
        self._lock = threading.Lock()

    def add(
        self,
        name: str,
        data: npt.NDArray[np.generic],
        *,
        dtype: str = "F32",
        shape: tuple[int, ...] | None = None,
        shard: str = "only",
    ) -> None:
        """Append the bytes of `data` to `shard`; `shape` counts numbers where `data` holds codes."""
        with (self.folder / shard).open("ab") as file:
            offset = file.tell()
            file.write(np.ascontiguousarray(data).tobytes())
        self.declare(name, dtype, data.shape if shape is None else shape, offset, data.nbytes, shard=shard)

    def declare(
        self,
        name: str,
        dtype: str,
        shape: tuple[int, ...],
        offset_bytes: int,
        n_bytes: int,
        *,
        shard: str = "only",
    ) -> None:
        self.tensors[name] = SourceTensor(
            name=name, dtype=dtype, shape=shape, shard=shard, offset_bytes=offset_bytes, n_bytes=n_bytes
        )

    def fetch(self, shard: str) -> None:
        self.log.append(("fetch", shard))
        if shard not in self._files:
            self._files[shard] = os.open(self.folder / shard, os.O_RDONLY)

    def release(self, shard: str) -> None:
        self.log.append(("release", shard))
        if shard in self._files:
            os.close(self._files.pop(shard))

    def read(self, tensor: SourceTensor, offset_bytes: int, into: memoryview) -> None:
        with self._lock:
            self.n_reads += 1
            descriptor = self._files[tensor.shard]
        if offset_bytes + len(into) > tensor.n_bytes:
            raise InvalidCheckpoint(f"{tensor.name} ends early")
        if os.preadv(descriptor, [into], tensor.offset_bytes + offset_bytes) != len(into):
            raise InvalidCheckpoint(f"{tensor.name} is cut off")

    def sha256(self) -> str:
        return "raw"

    def close(self) -> None:
        for shard in list(self._files):
            os.close(self._files.pop(shard))


def bf16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """The upper half of each number, cut off: what a BF16 checkpoint holds."""
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def widened(codes: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    return (codes.astype(np.uint32) << 16).view(np.float32)


def typed(name: str, shape: tuple[int, ...], kind: GGMLQuantizationType, *parts: Part) -> TypedTensor:
    """A tensor that is made of `parts`."""
    return TypedTensor(plan=TensorPlan(name=name, shape=shape, parts=parts), type=kind, wanted=kind)


def whole(source: str, n_rows: int, *, target_row: int = 0, expert: int = 0) -> Part:
    """All of a source tensor."""
    return Part(source=source, target_row=target_row, n_rows=n_rows, expert=expert)

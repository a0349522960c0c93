"""Write a .safetensors file tensor by tensor, with a few rows in memory. Knows no model.

Format: https://huggingface.co/docs/safetensors (eight bytes with the header's length, a JSON header, data).
The file is written as `*.part`, flushed to the disk and renamed, so that it is whole or not there.
"""

from __future__ import annotations

import fcntl
import io
import json
import math
import os
import shutil
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from gguf import GGMLQuantizationType

from edgeapp import durable
from edgeapp.cleantext import clean_line
from edgeapp.errors import ConversionFailed, NotEnoughDisk
from edgeapp_converters import ggml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

Dtype = Literal["F16", "BF16", "F32"]
_HEADER_ALIGNMENT = 8  # safetensors' own writer pads with spaces to it
_KEPT_FREE_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class NewTensor:
    """A tensor to be written, as many times as it has `names`."""

    names: tuple[str, ...]
    dtype: Dtype
    shape: tuple[int, ...]
    rows: Callable[[], Iterable[npt.NDArray[np.float32]]]
    """Gives its numbers in order: matrices [any number of rows, shape[-1]]."""

    @property
    def n_bytes(self) -> int:
        """Bytes of one copy."""
        return math.prod(self.shape[:-1]) * ggml.row_bytes(GGMLQuantizationType[self.dtype], self.shape[-1])


def write_safetensors(
    path: Path, tensors: Sequence[NewTensor], *, progress: Callable[[int, int], None]
) -> None:
    """Write `tensors` to `path`; `progress` is told the bytes that are done, and all bytes.

    Raise `NotEnoughDisk` before any work, and `ConversionFailed` for a number that its dtype cannot hold or
    when the disk fails; `path` is then as it was.
    """
    header, offsets = _layout(tensors)
    n_bytes = sum(len(tensor.names) * tensor.n_bytes for tensor in tensors)
    _require_room(path, len(header) + n_bytes)
    with _new_file(path) as descriptor:
        _write_all(descriptor, memoryview(header), 0)
        done_bytes = 0
        for tensor in tensors:
            _write_tensor(descriptor, tensor, [offsets[name] for name in tensor.names])
            done_bytes += len(tensor.names) * tensor.n_bytes
            progress(done_bytes, n_bytes)


@contextmanager
def _new_file(path: Path) -> Iterator[int]:
    """Yield the descriptor of a file that is named `path` if the block succeeds, and is gone otherwise."""
    part = path.with_name(path.name + ".part")
    try:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        with closing(io.FileIO(descriptor, "r+")):
            _lock(descriptor, path)
            os.ftruncate(descriptor, 0)
            with _removed_on_failure(part):
                yield descriptor
                os.fsync(descriptor)
                durable.move(part, path)
    except OSError as problem:
        raise ConversionFailed(
            f"{clean_line(path.name)} could not be written: {problem.strerror}.",
            hint=f"Check the disk that holds {clean_line(str(path.parent), max_chars=300)}.",
        ) from problem


@contextmanager
def _removed_on_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as problem:
        raise ConversionFailed(
            f"{clean_line(path.name)} is being written by another process.", hint="Wait for it, or end it."
        ) from problem


def _layout(tensors: Sequence[NewTensor]) -> tuple[bytes, dict[str, int]]:
    """Return the header with its length before it, and where in the file each name's data begins."""
    begin_bytes = 0
    table: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begins: dict[str, int] = {}
    for tensor in tensors:
        for name in tensor.names:
            end_bytes = begin_bytes + tensor.n_bytes
            table[name] = {
                "dtype": tensor.dtype,
                "shape": tensor.shape,
                "data_offsets": (begin_bytes, end_bytes),
            }
            begins[name] = begin_bytes
            begin_bytes = end_bytes
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _HEADER_ALIGNMENT)
    data_bytes = 8 + len(text)
    offsets = {name: data_bytes + begin for name, begin in begins.items()}
    return len(text).to_bytes(8, "little") + text, offsets


def _write_tensor(descriptor: int, tensor: NewTensor, offsets: Sequence[int]) -> None:
    kind = GGMLQuantizationType[tensor.dtype]
    done_bytes = 0
    for rows in tensor.rows():
        _require_representable(kind, rows, tensor.names[0])
        encoded = np.empty(len(rows) * ggml.row_bytes(kind, tensor.shape[-1]), np.uint8)
        ggml.quantize(kind, rows, encoded)
        for offset in offsets:
            _write_all(descriptor, encoded.data, offset + done_bytes)
        done_bytes += encoded.nbytes
    if done_bytes != tensor.n_bytes:
        raise ValueError(f"{tensor.names[0]} gave {done_bytes} of {tensor.n_bytes} bytes")


def _write_all(descriptor: int, data: memoryview, offset_bytes: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset_bytes)
        data, offset_bytes = data[written:], offset_bytes + written


def _require_representable(kind: GGMLQuantizationType, rows: npt.NDArray[np.float32], name: str) -> None:
    magnitude = float(np.abs(rows).max(initial=0))
    if not magnitude <= ggml.largest(kind):  # NaN too
        raise ConversionFailed(
            f"{clean_line(name)} holds {magnitude:.3g}, which {kind.name} cannot store.",
            hint="The weights it is made of are damaged, or need another dtype.",
        )


def _require_room(path: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(path.absolute().parent).free
    if free_bytes < needed_bytes + _KEPT_FREE_BYTES:
        raise NotEnoughDisk(
            f"{clean_line(path.name)} takes {needed_bytes / 1e6:.0f} MB, {free_bytes / 1e6:.0f} MB are free.",
            needed_bytes=needed_bytes,
            free_bytes=free_bytes,
            hint=f"Make room in {clean_line(str(path.absolute().parent), max_chars=300)}.",
        )

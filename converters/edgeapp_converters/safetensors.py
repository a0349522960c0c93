"""Read the header of a safetensors file, trusting nothing in it. Reads no weights.

Format: eight bytes with the header's length, a JSON object, then the data
(https://github.com/huggingface/safetensors, README).
"""

from __future__ import annotations

import json
import os
import struct
from typing import TYPE_CHECKING, Any

from edgeapp.cleantext import clean, clean_line
from edgeapp.errors import InvalidCheckpoint, ModelUnreadable, UnsupportedCheckpoint
from edgeapp_converters.source import SourceTensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MAX_HEADER_BYTES = 100_000_000  # safetensors/src/tensor.rs, MAX_HEADER_SIZE
_LENGTH = struct.Struct("<Q")
_MAX_TENSORS = 1_000_000
_MAX_DIMENSIONS = 8
_MAX_NAME_CHARS = 512
_ELEMENT_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
}
_UNREADABLE = {"F4", "F6_E2M3", "F6_E3M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64"}
"""Element types that the format has (safetensors/src/tensor.rs, Dtype) and no family that we convert uses."""
_ENTRY_KEYS = {"dtype", "shape", "data_offsets"}
_DAMAGED = "The file is damaged or not a safetensors file; download it again."


def read_header(fd: int, *, shard: str) -> dict[str, SourceTensor]:
    """Return the tensors of the file open as `fd`, which is shown as `shard`.

    Raise `InvalidCheckpoint`, `UnsupportedCheckpoint` or, when the disk fails, `ModelUnreadable`.
    """
    file_bytes = os.fstat(fd).st_size

    def read(first_byte: int, n_bytes: int) -> bytes:
        try:
            return os.pread(fd, n_bytes, first_byte)
        except OSError as problem:
            raise ModelUnreadable(f"{shard} cannot be read: {problem.strerror}.") from problem

    return read_header_with(read, file_bytes=file_bytes, shard=shard)


def read_header_with(
    read: Callable[[int, int], bytes], *, file_bytes: int, shard: str
) -> dict[str, SourceTensor]:
    """Return the tensors of a file of `file_bytes`, of which `read(first_byte, n_bytes)` returns a piece.

    Two pieces are read, the second as long as the header. Raise `InvalidCheckpoint` or
    `UnsupportedCheckpoint`.
    """
    n_bytes = header_bytes(read(0, _LENGTH.size), file_bytes=file_bytes, shard=shard)
    header = read(_LENGTH.size, n_bytes)
    if len(header) < n_bytes:
        raise _invalid(shard, f"ended after {len(header)} of the {n_bytes} bytes of its header")
    return parse_header(header, data_bytes=file_bytes - _LENGTH.size - n_bytes, shard=shard)


def header_bytes(start: bytes, *, file_bytes: int, shard: str) -> int:
    """Return the length of the JSON that follows the first eight bytes. Raise `InvalidCheckpoint`."""
    if len(start) < _LENGTH.size:
        raise _invalid(shard, f"has {file_bytes} bytes, too few for a header")
    (n_bytes,) = _LENGTH.unpack(start[: _LENGTH.size])
    if n_bytes > MAX_HEADER_BYTES or n_bytes > file_bytes - _LENGTH.size:
        raise _invalid(shard, f"claims a header of {n_bytes} bytes in a file of {file_bytes}")
    return int(n_bytes)


def parse_header(header: bytes, *, data_bytes: int, shard: str) -> dict[str, SourceTensor]:
    """Return the tensors that the JSON `header` describes, in the order of their bytes.

    Their offsets count from the start of the file. Raise `InvalidCheckpoint` when spans do not agree with
    shapes, overlap, leave holes or do not cover the `data_bytes` that follow, and `UnsupportedCheckpoint`
    for element types that cannot be converted.
    """
    entries = parse_object(header, what=shard)
    if not isinstance(entries.pop("__metadata__", {}), dict):
        raise _invalid(shard, "has a __metadata__ that is no object")
    if len(entries) > _MAX_TENSORS:
        raise _invalid(shard, f"has {len(entries)} tensors; at most {_MAX_TENSORS} make sense")
    data_start = _LENGTH.size + len(header)
    tensors = sorted(
        (_tensor(name, entry, data_start=data_start, shard=shard) for name, entry in entries.items()),
        key=lambda tensor: (tensor.offset_bytes, tensor.n_bytes),
    )
    _require_gapless(tensors, data_start=data_start, data_bytes=data_bytes, shard=shard)
    return {tensor.name: tensor for tensor in tensors}


def parse_object(text: bytes, *, what: str) -> dict[str, Any]:
    """Return the JSON object in `text`, refusing a key that occurs twice. Raise `InvalidCheckpoint`."""
    try:
        parsed = json.loads(text.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as problem:
        reason = clean_line(str(problem), max_chars=120) or type(problem).__name__
        raise _invalid(what, f"does not hold valid JSON ({reason})") from problem
    if not isinstance(parsed, dict):
        raise _invalid(what, "does not hold a JSON object")
    return parsed


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _tensor(name: str, entry: object, *, data_start: int, shard: str) -> SourceTensor:
    if not name or len(name) > _MAX_NAME_CHARS or clean(name) != name or "\n" in name or "\t" in name:
        raise _invalid(shard, f"has a tensor with the impossible name {clean_line(name, max_chars=60)!r}")
    shown = clean_line(name, max_chars=120)
    if not isinstance(entry, dict) or not entry.keys() >= _ENTRY_KEYS:
        raise _invalid(shard, f"does not describe its tensor {shown}")
    element_bytes = _element_bytes(entry["dtype"], shard=shard, shown=shown)
    shape = _integers(entry["shape"], shard=shard, shown=shown)
    offsets = _integers(entry["data_offsets"], shard=shard, shown=shown)
    if len(shape) > _MAX_DIMENSIONS or len(offsets) != 2:  # noqa: PLR2004 - begin and end
        raise _invalid(shard, f"does not describe its tensor {shown}")
    begin, end = offsets
    n_bytes = element_bytes
    for dimension in shape:
        n_bytes *= dimension
    if end - begin != n_bytes:
        raise _invalid(shard, f"gives {shown} {end - begin} bytes, but its shape needs {n_bytes}")
    return SourceTensor(
        name=name,
        dtype=entry["dtype"],
        shape=shape,
        shard=shard,
        offset_bytes=data_start + begin,
        n_bytes=n_bytes,
    )


def _element_bytes(dtype: object, *, shard: str, shown: str) -> int:
    if isinstance(dtype, str) and dtype in _ELEMENT_BYTES:
        return _ELEMENT_BYTES[dtype]
    stored_as = f"stores {shown} as {clean_line(str(dtype), max_chars=40)}"
    if isinstance(dtype, str) and dtype in _UNREADABLE:
        raise UnsupportedCheckpoint(
            f"{clean_line(shard, max_chars=200)} {stored_as}, which cannot be converted.",
            hint="Convert the original checkpoint in BF16.",
        )
    raise _invalid(shard, f"{stored_as}, which is no element type")


def _integers(value: object, *, shard: str, shown: str) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise _invalid(shard, f"does not describe its tensor {shown}")
    for item in value:
        if not isinstance(item, int) or isinstance(item, bool) or not 0 <= item < 1 << 63:
            raise _invalid(shard, f"has an impossible size or offset in its tensor {shown}")
    return tuple(value)


def _require_gapless(
    tensors: Iterable[SourceTensor], *, data_start: int, data_bytes: int, shard: str
) -> None:
    """The format forbids holes and overlaps; either would let bytes count as two tensors, or as none."""
    expected = data_start
    for tensor in tensors:
        if tensor.offset_bytes != expected:
            fault = "overlaps another tensor" if tensor.offset_bytes < expected else "leaves a hole before it"
            raise _invalid(shard, f"has a tensor that {fault}: {clean_line(tensor.name, max_chars=120)}")
        expected += tensor.n_bytes
    missing = expected - data_start - data_bytes
    if missing > 0:
        raise _invalid(shard, f"ends {missing} bytes before its last tensor does")
    if missing < 0:
        raise _invalid(shard, f"has {-missing} bytes behind its last tensor")


def _invalid(shard: str, fault: str) -> InvalidCheckpoint:
    return InvalidCheckpoint(f"{clean_line(shard, max_chars=200)} {fault}.", hint=_DAMAGED)

"""The head of a GGUF file: metadata, tensor table, and where each tensor's data will stand. Writes no file.

The layout is that of gguf-py's writer: version 3, little-endian, tensors aligned to 32 bytes in file order,
keys in the order in which they are given.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gguf import GGUF_DEFAULT_ALIGNMENT, GGUF_MAGIC, GGUF_VERSION, GGUFValueType

from edgeapp.cleantext import clean_line
from edgeapp.errors import ConversionFailed, InvalidCheckpoint
from edgeapp_converters import ggml

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeapp_converters.metadata import Metadata, MetaValue, Scalar
    from edgeapp_converters.plan import TypedTensor

_FORMATS = {
    GGUFValueType.UINT8: "<B",
    GGUFValueType.INT8: "<b",
    GGUFValueType.UINT16: "<H",
    GGUFValueType.INT16: "<h",
    GGUFValueType.UINT32: "<I",
    GGUFValueType.INT32: "<i",
    GGUFValueType.UINT64: "<Q",
    GGUFValueType.INT64: "<q",
    GGUFValueType.FLOAT32: "<f",
    GGUFValueType.FLOAT64: "<d",
    GGUFValueType.BOOL: "<?",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ValuePlace:
    """Where a key's value stands in the file, its type included."""

    offset_bytes: int
    n_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """All bytes before the tensors' data, and what follows from them."""

    data: bytes
    """Padded, so that the first tensor begins right behind it."""
    offsets_bytes: tuple[int, ...]
    """Of each tensor's data from the start of the file."""
    row_bytes: tuple[int, ...]
    """Of each tensor."""
    file_bytes: int
    places: Mapping[str, ValuePlace]

    def place_of_rows(self, tensor: int, first: int, n_rows: int) -> tuple[int, int]:
        """Return offset and length in bytes of rows in the file."""
        row_bytes = self.row_bytes[tensor]
        return self.offsets_bytes[tensor] + first * row_bytes, n_rows * row_bytes


def build_header(metadata: Metadata, tensors: Sequence[TypedTensor]) -> Header:
    """Lay out a file. Raise `InvalidCheckpoint` for values that their type cannot hold."""
    data = bytearray(struct.pack("<IIQQ", GGUF_MAGIC, GGUF_VERSION, len(tensors), len(metadata)))
    places = {}
    for key, value in metadata.items():
        data += _packed_string(key, key)
        packed = packed_value(key, value)
        places[key] = ValuePlace(offset_bytes=len(data), n_bytes=len(packed))
        data += packed
    row_bytes = tuple(ggml.row_bytes(tensor.type, tensor.plan.columns) for tensor in tensors)
    offsets, end = [], 0
    for tensor, one_row in zip(tensors, row_bytes, strict=True):
        data += _tensor_entry(tensor, end)
        offsets.append(end)
        end += _padded(tensor.plan.n_rows * one_row)
    data += bytes(_padded(len(data)) - len(data))
    return Header(
        data=bytes(data),
        offsets_bytes=tuple(len(data) + offset for offset in offsets),
        row_bytes=row_bytes,
        file_bytes=len(data) + end,
        places=places,
    )


def packed_value(key: str, value: MetaValue) -> bytes:
    """Return type and value as GGUF stores them. Raise `InvalidCheckpoint` if the type cannot hold it."""
    kind = struct.pack("<I", value.kind)
    if not isinstance(value.value, tuple):
        return kind + _packed(key, value.kind, value.value)
    if value.kind != GGUFValueType.ARRAY or value.item is None:
        raise ConversionFailed(f"{clean_line(key)} is an array without a type for its items.")
    head = struct.pack("<IQ", value.item, len(value.value))
    return kind + head + b"".join([_packed(key, value.item, item) for item in value.value])


def _tensor_entry(tensor: TypedTensor, offset_bytes: int) -> bytes:
    shape = tensor.plan.shape or (1,)
    return (
        _packed_string(tensor.plan.name, tensor.plan.name)
        + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        + struct.pack("<IQ", tensor.type, offset_bytes)
    )


def _packed(key: str, kind: GGUFValueType, value: Scalar) -> bytes:
    if kind == GGUFValueType.STRING:
        return _packed_string(key, str(value))
    try:
        return struct.pack(_FORMATS[kind], value)
    except (struct.error, OverflowError, KeyError) as problem:
        raise InvalidCheckpoint(
            f"{clean_line(key)} is {clean_line(str(value), max_chars=40)}, which {kind.name} cannot hold."
        ) from problem


def _packed_string(key: str, text: str) -> bytes:
    try:
        encoded = text.encode()
    except UnicodeEncodeError as problem:
        raise InvalidCheckpoint(f"{clean_line(key)} holds text that is not valid Unicode.") from problem
    return struct.pack("<Q", len(encoded)) + encoded


def _padded(n_bytes: int) -> int:
    return int(-(-n_bytes // GGUF_DEFAULT_ALIGNMENT) * GGUF_DEFAULT_ALIGNMENT)

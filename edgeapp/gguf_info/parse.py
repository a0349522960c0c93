"""Parse one GGUF file's header into keys and tensor descriptions, trusting nothing.

Knows the container format (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), not what a model is.
Every limit is at or below what llama.cpp accepts (ggml/src/gguf.cpp at 0c1e57098), so a header that passes
holds no count, size or offset that could overflow or exhaust memory there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.cleantext import clean_line
from edgeapp.errors import InvalidModel, UnsupportedModel
from edgeapp.gguf_info.foreign import describe_foreign
from edgeapp.gguf_info.ggml_types import GGML_TYPES
from edgeapp.gguf_info.header import ARRAY_TYPE, SCALARS, STRING_TYPE, Header, Span, Tensor
from edgeapp.gguf_info.reader import DAMAGED, HeaderReader, truncated

if TYPE_CHECKING:
    import struct
    from collections.abc import Mapping
    from pathlib import Path

MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 16
MAX_KEY_BYTES = (1 << 16) - 1  # the GGUF specification's limit
MAX_STRING_BYTES = 1 << 20
MAX_TOKEN_BYTES = 1 << 16
MAX_ARRAY_ELEMENTS = 4_000_000
MAX_ALIGNMENT_BYTES = 1 << 16
MAX_TENSOR_NAME_BYTES = 63  # GGML_MAX_NAME - 1 (ggml/include/ggml.h)
MAX_DIMS = 4  # GGML_MAX_DIMS
DEFAULT_ALIGNMENT_BYTES = 32  # GGUF_DEFAULT_ALIGNMENT
_MAX_INT64 = (1 << 63) - 1


def parse_header(fd: int, *, path: Path, file_bytes: int) -> Header:
    """Read and check the header of an open file.

    Raise `InvalidModel` for what is no GGUF, is cut short or breaks a limit, and `UnsupportedModel` for a
    version or byte order that llama.cpp no longer reads.
    """
    shown = clean_line(str(path), max_chars=300)
    reader = HeaderReader(fd, file_bytes=file_bytes, shown=shown)
    version = _read_version(reader)
    n_tensors = _read_count(reader, what="tensors", limit=MAX_TENSORS)
    n_keys = _read_count(reader, what="keys", limit=MAX_KEYS)
    values, type_ids = _read_values(reader, n_keys)
    alignment_bytes = _alignment(reader, values)
    tensors = tuple(_read_tensor(reader, index) for index in range(n_tensors))
    _check_layout(reader, tensors, alignment_bytes)
    return Header(
        path=path,
        shown=shown,
        file_bytes=file_bytes,
        gguf_version=version,
        alignment_bytes=alignment_bytes,
        data_offset_bytes=_padded(reader.position, alignment_bytes),
        values=values,
        type_ids=type_ids,
        tensors=tensors,
        raw=reader.data,
    )


def _read_version(reader: HeaderReader) -> int:
    if reader.file_bytes == 0:
        raise InvalidModel(
            f"{reader.shown} is empty.", hint="The download or copy did not finish; fetch the file again."
        )
    magic = reader.skip(min(4, reader.file_bytes))
    if reader.data[magic : magic + 4] != b"GGUF":
        raise describe_foreign(bytes(reader.data[: 1 << 16]), shown=reader.shown)
    version = reader.u32()
    if version & 0xFFFF == 0 and version:
        raise UnsupportedModel(
            f"{reader.shown} is a big-endian GGUF; only little-endian files run here.",
            hint="Get the little-endian file, or convert it with gguf-convert-endian.",
        )
    if version == 1:
        raise UnsupportedModel(
            f"{reader.shown} is a GGUF of version 1, which llama.cpp no longer reads.",
            hint="Get a newer conversion of the same model.",
        )
    if version not in {2, 3}:
        raise UnsupportedModel(
            f"{reader.shown} is a GGUF of version {version}; versions 2 and 3 are known.",
            hint="A newer edgeapp may read it; otherwise the file is damaged.",
        )
    return version


def _read_count(reader: HeaderReader, *, what: str, limit: int) -> int:
    count = reader.u64()
    if count > limit:
        raise InvalidModel(
            f"{reader.shown}: the header claims {count} {what}; at most {limit} are accepted.", hint=DAMAGED
        )
    return count


def _read_values(
    reader: HeaderReader, n_keys: int
) -> tuple[dict[str, int | float | bool | Span], dict[str, int]]:
    values: dict[str, int | float | bool | Span] = {}
    type_ids: dict[str, int] = {}
    for index in range(n_keys):
        key = reader.string(max_bytes=MAX_KEY_BYTES, what=f"the name of key {index}").decode(
            "utf-8", "backslashreplace"
        )
        if not key:
            raise InvalidModel(f"{reader.shown}: key {index} has no name.", hint=DAMAGED)
        if key in values:
            raise InvalidModel(
                f"{reader.shown}: the key {clean_line(key)} appears twice.",
                hint=DAMAGED,
            )
        type_ids[key] = reader.u32()
        values[key] = _read_value(reader, key, type_ids[key])
    return values, type_ids


def _read_value(reader: HeaderReader, key: str, type_id: int) -> int | float | bool | Span:
    if type_id == ARRAY_TYPE:
        return _read_array(reader, key)
    if type_id == STRING_TYPE:
        n_bytes = reader.u64()
        if n_bytes > MAX_STRING_BYTES:
            raise InvalidModel(
                f"{reader.shown}: {clean_line(key)} claims {n_bytes} bytes; "
                f"at most {MAX_STRING_BYTES} are accepted.",
                hint=DAMAGED,
            )
        return Span(type_id=STRING_TYPE, start=reader.skip(n_bytes), count=n_bytes, is_array=False)
    layout = _layout(reader, key, type_id)
    start = reader.skip(layout.size)
    value: int | float | bool = layout.unpack_from(reader.data, start)[0]
    return value


def _layout(reader: HeaderReader, key: str, type_id: int) -> struct.Struct:
    layout = SCALARS.get(type_id)
    if layout is None:
        raise InvalidModel(f"{reader.shown}: {clean_line(key)} has the unknown type {type_id}.", hint=DAMAGED)
    return layout


def _read_array(reader: HeaderReader, key: str) -> Span:
    type_id = reader.u32()
    count = reader.u64()
    if count > MAX_ARRAY_ELEMENTS:
        raise InvalidModel(
            f"{reader.shown}: {clean_line(key)} claims {count} elements; "
            f"at most {MAX_ARRAY_ELEMENTS} are accepted.",
            hint=DAMAGED,
        )
    start = reader.position
    if type_id == STRING_TYPE:
        reader.skip_strings(count, max_bytes=MAX_TOKEN_BYTES, what=clean_line(key))
    else:
        reader.skip(count * _layout(reader, key, type_id).size)
    return Span(type_id=type_id, start=start, count=count, is_array=True)


def _alignment(reader: HeaderReader, values: Mapping[str, object]) -> int:
    alignment_bytes = values.get("general.alignment", DEFAULT_ALIGNMENT_BYTES)
    if (
        not isinstance(alignment_bytes, int)
        or not 1 <= alignment_bytes <= MAX_ALIGNMENT_BYTES
        or alignment_bytes & (alignment_bytes - 1)
    ):
        raise InvalidModel(
            f"{reader.shown}: general.alignment must be a power of two of at most {MAX_ALIGNMENT_BYTES}.",
            hint=DAMAGED,
        )
    return int(alignment_bytes)


def _read_tensor(reader: HeaderReader, index: int) -> Tensor:
    raw_name = reader.string(max_bytes=MAX_TENSOR_NAME_BYTES, what=f"the name of tensor {index}")
    name = raw_name.decode("utf-8", "backslashreplace")
    n_dims = reader.u32()
    if n_dims > MAX_DIMS:
        raise InvalidModel(
            f"{reader.shown}: tensor {clean_line(name)} has {n_dims} dimensions; "
            f"at most {MAX_DIMS} are allowed.",
            hint=DAMAGED,
        )
    shape = tuple(reader.u64() for _ in range(n_dims))
    type_id = reader.u32()
    ggml_type = GGML_TYPES.get(type_id)
    if ggml_type is None:
        raise InvalidModel(
            f"{reader.shown}: tensor {clean_line(name)} has the type {type_id}, "
            "which is unknown or was removed from the format.",
            hint="Get a newer conversion of the same model.",
        )
    tensor = Tensor(name=name, shape=shape, type=ggml_type, offset_bytes=reader.u64())
    _check_shape(reader, tensor)
    return tensor


def _check_shape(reader: HeaderReader, tensor: Tensor) -> None:
    n_parameters = tensor.n_parameters
    if not 0 < n_parameters <= _MAX_INT64 or tensor.n_bytes > _MAX_INT64:
        raise InvalidModel(
            f"{reader.shown}: tensor {clean_line(tensor.name)} has the impossible shape {tensor.shape}.",
            hint=DAMAGED,
        )
    row = tensor.shape[0] if tensor.shape else 1
    if row % tensor.type.block_parameters:
        raise InvalidModel(
            f"{reader.shown}: tensor {clean_line(tensor.name)} has rows of {row} values, "
            f"which {tensor.type.name} cannot hold in blocks of {tensor.type.block_parameters}.",
            hint=DAMAGED,
        )


def _check_layout(reader: HeaderReader, tensors: tuple[Tensor, ...], alignment_bytes: int) -> None:
    """Tensors lie one after the other, each padded to the alignment, and end inside the file."""
    seen: set[str] = set()
    expected_bytes = end_bytes = 0
    for tensor in tensors:
        if tensor.name in seen:
            raise InvalidModel(
                f"{reader.shown}: the tensor {clean_line(tensor.name)} appears twice.",
                hint=DAMAGED,
            )
        seen.add(tensor.name)
        if tensor.offset_bytes != expected_bytes:
            raise InvalidModel(
                f"{reader.shown}: tensor {clean_line(tensor.name)} lies at offset {tensor.offset_bytes}, "
                f"expected {expected_bytes}.",
                hint=DAMAGED,
            )
        end_bytes = expected_bytes + tensor.n_bytes
        expected_bytes = _padded(end_bytes, alignment_bytes)
    end_bytes += _padded(reader.position, alignment_bytes) if tensors else 0
    if end_bytes > reader.file_bytes:
        raise truncated(
            reader.shown, missing_bytes=end_bytes - reader.file_bytes, file_bytes=reader.file_bytes
        )


def _padded(n_bytes: int, alignment_bytes: int) -> int:
    return -(-n_bytes // alignment_bytes) * alignment_bytes

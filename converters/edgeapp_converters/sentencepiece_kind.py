"""Which of SentencePiece's models a tokenizer.model holds, read from its protobuf. Knows nothing else of it.

Source: google/sentencepiece, src/sentencepiece_model.proto: ModelProto.trainer_spec is field 2, its
model_type field 3, an enum. Wire format: protobuf.dev, Encoding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

Kind = Literal["unigram", "bpe", "word", "char"]

_KINDS: dict[int, Kind] = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
_TRAINER_SPEC, _MODEL_TYPE = 2, 3
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10


def model_kind(data: bytes) -> Kind:
    """Return the kind of model in the content of a tokenizer.model. Raise `ValueError` for damage."""
    kind = 1  # the proto's default
    for number, value in _fields(data):
        if number == _TRAINER_SPEC and isinstance(value, bytes):
            types = [inner for field, inner in _fields(value) if field == _MODEL_TYPE]
            kind = next((inner for inner in types if isinstance(inner, int)), kind)
    if kind not in _KINDS:
        raise ValueError(f"it has the unknown model type {kind}")
    return _KINDS[kind]


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of each field of a message."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            value, position = _varint(data, position)
            yield number, value
            continue
        n_bytes = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}.get(wire_type)
        if wire_type == _BYTES:
            n_bytes, position = _varint(data, position)
        if n_bytes is None or position + n_bytes > len(data):
            raise ValueError(f"a field at byte {position} is cut off or of an unknown type")
        yield number, data[position : position + n_bytes]
        position += n_bytes


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Return an integer in base 128, least significant group first, and where it ends."""
    value = 0
    for index in range(_MAX_VARINT_BYTES):
        if position + index >= len(data):
            raise ValueError("it ends in the middle of a number")
        byte = data[position + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:  # noqa: PLR2004 - the top bit says that more follows
            return value, position + index + 1
    raise ValueError(f"a number at byte {position} is too long")

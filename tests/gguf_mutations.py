"""Damage a GGUF header in seeded ways: byte flips, cuts, and lies in every count, length, type and offset.

Walks a correct header with code of its own, so that it does not share a mistake with the parser under test.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_STRINGS_NOTED = 3  # lengths noted at the start of each string array
LIES = (0, 1, 5, 255, 0x10000, 0x7FFF_FFFF, 0xFFFF_FFFF, 1 << 32, 1 << 62, (1 << 63) - 1, (1 << 64) - 1)
"""Values that overflow, wrap, or exhaust memory somewhere when a size is multiplied or trusted."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """A structural number in the header: `n_bytes` (4 or 8) at `offset`."""

    offset: int
    n_bytes: int


def mutations(data: bytes, n: int, seed: int) -> Iterator[bytes]:
    """Yield `n` damaged copies of the GGUF in `data` (the whole file, or its header alone)."""
    rng = random.Random(seed)
    fields, header_bytes = _walk(data)
    kinds = (_flip, _flip_many, _cut, _lie, _lie, _repeat)
    for index in range(n):
        yield kinds[index % len(kinds)](data, rng, fields, header_bytes)


def lies(data: bytes) -> Iterator[bytes]:
    """Yield a copy for every structural field with each of `LIES` in its place."""
    for field in _walk(data)[0]:
        for value in LIES:
            yield _replaced(data, field, value)


def header_bytes(data: bytes) -> int:
    """Return where the tensor descriptions end; padding and tensor data follow."""
    return _walk(data)[1]


def _flip(data: bytes, rng: random.Random, _: list[Field], end: int) -> bytes:
    damaged = bytearray(data)
    damaged[rng.randrange(end)] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def _flip_many(data: bytes, rng: random.Random, _: list[Field], end: int) -> bytes:
    damaged = bytearray(data)
    for _round in range(rng.randrange(2, 64)):
        damaged[rng.randrange(end)] = rng.randrange(256)
    return bytes(damaged)


def _cut(data: bytes, rng: random.Random, _: list[Field], end: int) -> bytes:
    return data[: rng.randrange(end)]


def _lie(data: bytes, rng: random.Random, fields: list[Field], _: int) -> bytes:
    return _replaced(data, rng.choice(fields), rng.choice(LIES))


def _repeat(data: bytes, rng: random.Random, _: list[Field], end: int) -> bytes:
    """Copy a stretch of the header over another, which doubles keys and names."""
    source, target, length = rng.randrange(end), rng.randrange(end), rng.randrange(1, 256)
    damaged = bytearray(data)
    piece = data[source : source + length]
    damaged[target : target + len(piece)] = piece
    return bytes(damaged)


def _replaced(data: bytes, field: Field, value: int) -> bytes:
    lie = (value & ((1 << 8 * field.n_bytes) - 1)).to_bytes(field.n_bytes, "little")
    return data[: field.offset] + lie + data[field.offset + field.n_bytes :]


def _walk(data: bytes) -> tuple[list[Field], int]:
    walker = _Walker(data)
    walker.number(4)
    n_tensors, n_keys = walker.number(8), walker.number(8)
    for _ in range(n_keys):
        walker.string()
        walker.value(walker.number(4))
    for _ in range(n_tensors):
        walker.string()
        for _dim in range(walker.number(4)):
            walker.number(8)
        walker.number(4)
        walker.number(8)
    return walker.fields, walker.position


class _Walker:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 4  # the magic
        self.fields: list[Field] = []

    def number(self, n_bytes: int, *, noted: bool = True) -> int:
        value: int = struct.unpack_from("<I" if n_bytes == 4 else "<Q", self._data, self.position)[0]
        if noted:
            self.fields.append(Field(offset=self.position, n_bytes=n_bytes))
        self.position += n_bytes
        return value

    def string(self, *, noted: bool = True) -> None:
        n_bytes = self.number(8, noted=noted)
        self.position += n_bytes

    def value(self, type_id: int) -> None:
        if type_id == _STRING:
            self.string()
        elif type_id == _ARRAY:
            self.elements(self.number(4), self.number(8))
        elif _SCALAR_BYTES[type_id] in {4, 8}:
            self.number(_SCALAR_BYTES[type_id])
        else:
            self.position += _SCALAR_BYTES[type_id]

    def elements(self, type_id: int, count: int) -> None:
        if type_id != _STRING:
            self.position += _SCALAR_BYTES[type_id] * count
            return
        for index in range(count):
            self.string(noted=index < _STRINGS_NOTED)

"""The file of one saved sequence: written once, verified before anything of it is used.

Magic, version, header length, header (JSON), tokens (int32), text, state, and the sha256 of all that.
llama.cpp would crash or answer nonsense on damaged bytes, so nothing is handed on before the sum is right.
Knows no folder and no llama.cpp.
"""

from __future__ import annotations

import hashlib
import os
import stat
from typing import TYPE_CHECKING, Self

import msgspec

from edgeapp.engine.prefix_store import TOKEN_BYTES, SavedSequence

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_MAGIC, _VERSION = b"EDGEAPKV", 1
_LENGTH_BYTES, _SUM_BYTES = 4, 32
_MAX_HEADER_BYTES = 1 << 16


class Damaged(Exception):
    """The file is not what its name says."""


class _Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    model_key: str
    key: str
    n_tokens: int
    n_rendered_bytes: int
    n_data_bytes: int
    n_least: int


def pieces(model_key: str, entry: SavedSequence) -> list[bytes | bytearray]:
    """Return the content of the file, of which the sum is the last piece. The state is not copied."""
    header = msgspec.json.encode(
        _Header(
            model_key=model_key,
            key=entry.key,
            n_tokens=len(entry.tokens),
            n_rendered_bytes=len(entry.rendered),
            n_data_bytes=len(entry.data),
            n_least=entry.n_least,
        )
    )
    start = _MAGIC + _length(_VERSION) + _length(len(header))
    content = [start, header, entry.packed, entry.rendered, entry.data]
    digest = hashlib.sha256()
    for piece in content:
        digest.update(piece)
    return [*content, digest.digest()]


def _length(value: int) -> bytes:
    return value.to_bytes(_LENGTH_BYTES, "little")


def write(path: Path, content: Sequence[bytes | bytearray], *, is_lasting: bool = True) -> None:
    """Write `content` into the existing file `path`. Raise `OSError`.

    `is_lasting` waits until it is on the disk.
    """
    with path.open("r+b") as file:
        file.writelines(content)
        file.flush()
        if is_lasting:
            os.fsync(file.fileno())


def read(path: Path, *, model_key: str, key: str, packed: bytes) -> SavedSequence:
    """Return the sequence of exactly these tokens. Raise `Damaged`, or `OSError` when there is none."""
    with _VerifiedFile(path) as file:
        header = _read_header(file)
        if (header.model_key, header.key) != (model_key, key):
            raise Damaged
        if file.take(header.n_tokens * TOKEN_BYTES) != packed:
            raise Damaged
        rendered = bytes(file.take(header.n_rendered_bytes))
        data = file.take(header.n_data_bytes)
        file.check_sum()
    tokens = tuple(memoryview(packed).cast("i"))
    return SavedSequence(key=key, tokens=tokens, rendered=rendered, data=data, n_least=header.n_least)


def read_subject(path: Path, *, model_key: str) -> SavedSequence:
    """Return what the file is about, without its state, in a moment. Raise `Damaged` or `OSError`.

    Its sum has not been computed: only `read` tells whether it is true.
    """
    with _VerifiedFile(path) as file:
        header = _read_header(file)
        if header.model_key != model_key:
            raise Damaged
        packed = bytes(file.take(header.n_tokens * TOKEN_BYTES))
        rendered = bytes(file.take(header.n_rendered_bytes))
        if header.n_data_bytes != file.left_bytes:
            raise Damaged
    tokens = tuple(memoryview(packed).cast("i"))
    return SavedSequence(key=header.key, tokens=tokens, rendered=rendered, data=b"", n_least=header.n_least)


def _read_header(file: _VerifiedFile) -> _Header:
    if file.take(len(_MAGIC) + _LENGTH_BYTES) != _MAGIC + _length(_VERSION):
        raise Damaged
    n_header_bytes = int.from_bytes(file.take(_LENGTH_BYTES), "little")
    if n_header_bytes > _MAX_HEADER_BYTES:
        raise Damaged
    try:
        return msgspec.json.decode(file.take(n_header_bytes), type=_Header)
    except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
        raise Damaged from problem


class _VerifiedFile:
    """A regular file, read from its beginning while its sum is computed. Raises `Damaged` or `OSError`."""

    def __init__(self, path: Path) -> None:
        # O_NONBLOCK: a FIFO would otherwise block for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        facts = os.fstat(descriptor)
        self._descriptor = descriptor
        self._left_bytes = facts.st_size - _SUM_BYTES if stat.S_ISREG(facts.st_mode) else 0
        self._digest = hashlib.sha256()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_problem: object) -> None:
        os.close(self._descriptor)

    @property
    def left_bytes(self) -> int:
        """What can still be taken."""
        return self._left_bytes

    def take(self, n_bytes: int) -> bytearray:
        """Return the next `n_bytes`, never more than the file has."""
        if not 0 <= n_bytes <= self._left_bytes:
            raise Damaged
        self._left_bytes -= n_bytes
        data = self._read(n_bytes)
        self._digest.update(data)
        return data

    def check_sum(self) -> None:
        """Compare all that has been read with the sum at the end."""
        if self._left_bytes or self._read(_SUM_BYTES) != self._digest.digest():
            raise Damaged

    def _read(self, n_bytes: int) -> bytearray:
        data = bytearray(n_bytes)
        view = memoryview(data)
        while view:
            n_read = os.readv(self._descriptor, [view])
            if not n_read:
                raise Damaged
            view = view[n_read:]
        return data

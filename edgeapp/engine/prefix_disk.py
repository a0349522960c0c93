"""Keep saved sequences on disk between starts, so that a preset's second start computes no prefill.

It is a cache: a full disk, a lost or a damaged file costs time, never an error. The folder may be shared by
models and by processes. A name is the number of tokens and the sha256 of model, key and tokens; a file's
modification time says when it was used last. Knows no llama.cpp.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from edgeapp import durable, paths
from edgeapp.engine import prefix_file
from edgeapp.engine.model_identity import model_key
from edgeapp.engine.prefix_store import TOKEN_BYTES, pack

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgeapp.engine.prefix_store import SavedSequence

__all__ = ["PrefixDisk", "model_key"]

MAX_BYTES = 2 << 30
MAX_DISK_SHARE = 0.05
"""Of what would be free without our own files."""
_STALE_S = 3600.0
"""A `.part` file this old was left by a process that died."""
_NAME = re.compile(r"\d{1,9}-[0-9a-f]{64}\.kv")


class _File(NamedTuple):
    used_at_s: float
    n_bytes: int
    path: Path


class PrefixDisk:
    """Saved sequences of one model in `folder`. `capacity_bytes` holds for all models in it together.

    None means 2 GiB, or a twentieth of the free disk when that is less.
    """

    def __init__(self, folder: Path, model_key: str, *, capacity_bytes: int | None = None) -> None:
        self._folder = folder
        self._model_key = model_key
        self._capacity_bytes = capacity_bytes

    def save(self, entry: SavedSequence) -> bool:
        """Write `entry` and delete what was used least recently; False when the disk has no room for it.

        Waits for the disk, so a decode loop calls it from another thread.
        """
        target = self._path(entry.key, entry.packed)
        try:
            if target.exists():
                os.utime(target)
                return True
            paths.make_private(self._folder)
            content = prefix_file.pieces(self._model_key, entry)
            if not self._make_room(sum(map(len, content))):
                return False
            with _new_part(self._folder) as part:
                prefix_file.write(part, content)
                durable.move(part, target)
        except OSError:
            return False
        return True

    def load(self, key: str, tokens: Sequence[int]) -> SavedSequence | None:
        """Return the saved sequence of exactly these tokens, verified, and count it as used."""
        packed = pack(tokens)
        return self._read(self._path(key, packed), key, packed)

    def longest(self, key: str, tokens: Sequence[int]) -> SavedSequence | None:
        """Return the longest saved sequence that is the beginning of `tokens`, verified."""
        packed = pack(tokens)
        for path in reversed(self._beginnings(key, packed)):
            entry = self._read(path, key, packed[: _n_tokens(path.name) * TOKEN_BYTES])
            if entry is not None:
                return entry
        return None

    def discard(self, entry: SavedSequence) -> None:
        """Delete a sequence that llama.cpp refused."""
        _delete(self._path(entry.key, entry.packed))

    def _read(self, path: Path, key: str, packed: bytes) -> SavedSequence | None:
        try:
            entry = prefix_file.read(path, model_key=self._model_key, key=key, packed=packed)
            os.utime(path)
        except prefix_file.Damaged:
            _delete(path)
        except OSError:
            pass  # not there, or not readable
        else:
            return entry
        return None

    # Names -----------------------------------------------------------------------------------------------

    def _path(self, key: str, packed: bytes) -> Path:
        digest = self._digest(key)
        digest.update(packed)
        return self._folder / _name(len(packed), digest)

    def _beginnings(self, key: str, packed: bytes) -> list[Path]:
        """Return the files of all beginnings of the tokens, the shortest first, in one pass over them."""
        names = {file.path.name for file in _files(self._folder)}
        digest, n_done, found = self._digest(key), 0, []
        for n_bytes in sorted({_n_tokens(name) * TOKEN_BYTES for name in names}):
            if n_bytes > len(packed):
                break
            digest.update(packed[n_done:n_bytes])
            n_done = n_bytes
            name = _name(n_bytes, digest)
            if name in names:
                found.append(self._folder / name)
        return found

    def _digest(self, key: str) -> hashlib._Hash:
        return hashlib.sha256(msgspec.json.encode((self._model_key, key)))

    # Room ------------------------------------------------------------------------------------------------

    def _make_room(self, n_bytes: int) -> bool:
        """Delete the least recently used files until `n_bytes` more fit; False when they never will."""
        files = sorted(_files(self._folder))
        used_bytes = sum(file.n_bytes for file in files)
        capacity_bytes = self._capacity(used_bytes)
        if n_bytes > capacity_bytes:
            return False
        for file in files:
            if used_bytes + n_bytes <= capacity_bytes:
                break
            _delete(file.path)
            used_bytes -= file.n_bytes
        _delete_stale_parts(self._folder)
        return True

    def _capacity(self, used_bytes: int) -> int:
        if self._capacity_bytes is not None:
            return self._capacity_bytes
        free_bytes = shutil.disk_usage(self._folder).free + used_bytes
        return min(MAX_BYTES, int(free_bytes * MAX_DISK_SHARE))


def _name(n_bytes: int, digest: hashlib._Hash) -> str:
    return f"{n_bytes // TOKEN_BYTES}-{digest.hexdigest()}.kv"


def _n_tokens(name: str) -> int:
    return int(name.partition("-")[0])


def _files(folder: Path) -> Iterator[_File]:
    """Yield the saved sequences of all models, in any order; none when the folder cannot be read."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _NAME.fullmatch(entry.name):
                with suppress(FileNotFoundError):  # another process deleted it
                    facts = entry.stat(follow_symlinks=False)
                    yield _File(facts.st_mtime, facts.st_size, Path(entry.path))


def _delete(path: Path) -> None:
    with suppress(OSError):  # another process was faster, or the folder is read-only
        path.unlink()


@contextmanager
def _new_part(folder: Path) -> Iterator[Path]:
    """Make an empty file, readable by the user alone, that is deleted unless it gets another name."""
    descriptor, name = tempfile.mkstemp(suffix=".part", dir=folder)
    os.close(descriptor)
    part = Path(name)
    try:
        yield part
    finally:
        _delete(part)


def _delete_stale_parts(folder: Path) -> None:
    for part in folder.glob("*.part"):
        with suppress(FileNotFoundError):
            if time.time() - part.stat().st_mtime > _STALE_S:
                _delete(part)

"""A GGUF file under its temporary name: locked, reserved, written in any order, patched, then committed.

What stands under the final name is not touched before `commit`. Knows no tensors, only bytes and places.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgeapp import durable
from edgeapp.cleantext import clean_line
from edgeapp.errors import ConversionFailed, NotEnoughDisk
from edgeapp_converters.header import packed_value

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edgeapp_converters.header import Header
    from edgeapp_converters.metadata import MetaValue

_HASHED_AT_ONCE_BYTES = 1 << 20
_STAT_BLOCK_BYTES = 512  # st_blocks counts these, whatever the file system's own blocks are (stat(2))
_CANNOT_RESERVE = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class PartialGguf:
    """`target` while it is made, under the name `target.part`.

    Raise `ConversionFailed` if another process is making it, or if the folder cannot be written to.
    """

    def __init__(self, target: Path, header: Header) -> None:
        self.target = target.resolve()
        self.path = self.target.with_name(f"{self.target.name}.part")
        self.journal_path = self.target.with_name(f"{self.target.name}.part.journal")
        self._header = header
        with translated(self.path):
            self._descriptor = _open_locked(self.path)
        self.is_new = os.fstat(self._descriptor).st_size == 0

    def empty(self) -> None:
        """Throw away what an earlier, different conversion wrote."""
        with translated(self.path):
            os.ftruncate(self._descriptor, 0)

    def reserve(self) -> None:
        """Take the disk space and write the header. Raise `NotEnoughDisk` before anything is done."""
        needed_bytes = self._header.file_bytes - os.fstat(self._descriptor).st_blocks * _STAT_BLOCK_BYTES
        free_bytes = shutil.disk_usage(self.path.parent).free
        if needed_bytes > free_bytes:
            raise self._not_enough(needed_bytes, free_bytes)
        try:
            os.posix_fallocate(self._descriptor, 0, self._header.file_bytes)
        except OSError as problem:
            if problem.errno in _FULL:
                raise self._not_enough(needed_bytes, free_bytes) from problem
            if problem.errno not in _CANNOT_RESERVE:
                raise _failed(self.path, problem) from problem
        with translated(self.path):
            os.ftruncate(self._descriptor, self._header.file_bytes)
        self.write(self._header.data, 0)

    def write(self, data: bytes | memoryview, offset_bytes: int) -> None:
        """Put bytes at their place; called by many threads at once."""
        left = memoryview(data)
        with translated(self.path):
            while left:
                written = os.pwrite(self._descriptor, left, offset_bytes)
                left, offset_bytes = left[written:], offset_bytes + written

    def read_into(self, buffer: memoryview, offset_bytes: int) -> bool:
        """Fill `buffer` from the file; tell whether all of it was there and readable."""
        try:
            return os.preadv(self._descriptor, [buffer], offset_bytes) == len(buffer)
        except OSError:
            return False

    def sync_data(self) -> None:
        """Wait until what was written is on the disk."""
        with translated(self.path):
            os.fdatasync(self._descriptor)

    def patch(self, key: str, value: MetaValue) -> None:
        """Overwrite a metadata value by one that takes as many bytes. Raise `ConversionFailed` otherwise."""
        place = self._header.places.get(key)
        packed = packed_value(key, value)
        if place is None or place.n_bytes != len(packed):
            raise ConversionFailed(f"No room was kept in the file for this value of {clean_line(key)}.")
        current = self._header.data[place.offset_bytes : place.offset_bytes + 4]
        if current != packed[:4]:
            raise ConversionFailed(f"{clean_line(key)} was written as a value of another type.")
        self.write(packed, place.offset_bytes)

    def commit(self) -> str:
        """Give the file its final name for good and remove the journal; return its sha256."""
        digest = self._sha256()
        with translated(self.path):
            os.fsync(self._descriptor)
            self.path.replace(self.target)
            self.journal_path.unlink(missing_ok=True)
            durable.sync_folder(self.target.parent)
        return digest

    def discard(self) -> None:
        """Delete what was made: it was only wanted for a while."""
        with translated(self.path):
            self.path.unlink(missing_ok=True)
            self.journal_path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let another process go on with the part. May be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _sha256(self) -> str:
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(_HASHED_AT_ONCE_BYTES))
        offset_bytes = 0
        with translated(self.path):
            while n_bytes := os.preadv(self._descriptor, [buffer], offset_bytes):
                digest.update(buffer[:n_bytes])
                offset_bytes += n_bytes
        return digest.hexdigest()

    def _not_enough(self, needed_bytes: int, free_bytes: int) -> NotEnoughDisk:
        if self.is_new:
            self.path.unlink(missing_ok=True)
            self.journal_path.unlink(missing_ok=True)
        return NotEnoughDisk(
            f"{clean_line(self.target.name)} needs {_gb(needed_bytes)} of disk space, "
            f"but {_gb(free_bytes)} are free in {clean_line(str(self.path.parent))}.",
            needed_bytes=needed_bytes,
            free_bytes=free_bytes,
            hint="Free some space, raise the quota or file size limit, or choose another folder with -o.",
        )


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into `ConversionFailed`. The part stays."""
    try:
        yield
    except OSError as problem:
        raise _failed(path, problem) from problem


def _failed(path: Path, problem: OSError) -> ConversionFailed:
    name = clean_line(path.name)
    if problem.errno in _FULL:
        return ConversionFailed(
            f"{name} could not be written: {problem.strerror}.",
            hint="Free some space and run the same command again: it goes on where it stopped.",
        )
    return ConversionFailed(
        f"{name} could not be written in {clean_line(str(path.parent))}: {problem.strerror}.",
        hint="Run the same command again when that is solved: it goes on where it stopped.",
    )


def _open_locked(path: Path) -> int:
    """Open `path` for this process alone. Another one may have renamed it just before the lock was ours."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(path, descriptor):
                return descriptor
        except BlockingIOError as problem:
            os.close(descriptor)
            raise ConversionFailed(
                f"{clean_line(path.name)} is being written by another process.",
                hint="Wait for it, end it, or choose another file with -o.",
            ) from problem
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 10**9 else f"{n_bytes / 1e6:.1f} MB"

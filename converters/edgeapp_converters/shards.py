"""Read tensors out of shard files with pread, from many threads, noticing files that change meanwhile.

Knows where a tensor's bytes are, not what they mean or where a shard came from.
"""

from __future__ import annotations

import hashlib
import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeapp.cleantext import clean_line
from edgeapp.errors import InvalidCheckpoint, ModelUnreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edgeapp_converters.source import SourceTensor

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells that a file is still the one whose header was read."""

    size_bytes: int
    mtime_ns: int


def stamp_of(fd: int) -> Stamp:
    """Return size and time of the open file `fd`."""
    status = os.fstat(fd)
    return Stamp(status.st_size, status.st_mtime_ns)


class ShardFiles:
    """Open shards by name. A shard that is not as it was when `stamps` were taken is refused."""

    def __init__(self, opener: Callable[[str], int], stamps: Mapping[str, Stamp]) -> None:
        self._opener = opener
        self._stamps = dict(stamps)
        self._lock = threading.Lock()
        self._descriptors: dict[str, int] = {}

    def expect(self, shard: str, stamp: Stamp) -> None:
        """Take `stamp` for the shard's state from now on."""
        self._stamps[shard] = stamp

    def descriptor(self, shard: str) -> int:
        """Return the open shard. Raise `InvalidCheckpoint` when it changed since its header was read."""
        with self._lock:
            fd = self._descriptors.get(shard)
            if fd is None:
                fd = self._opened(shard)
                self._descriptors[shard] = fd
            return fd

    def release(self, shard: str) -> None:
        """Close the shard. Raise `InvalidCheckpoint` when it changed while it was read."""
        with self._lock:
            fd = self._descriptors.pop(shard, None)
        if fd is None:
            return
        stamp = stamp_of(fd)
        os.close(fd)
        if stamp != self._stamps[shard]:
            raise InvalidCheckpoint(
                f"{_shown(shard)} was changed while it was read.",
                hint="Run it again when nothing writes to that file any more.",
            )

    def read(self, tensor: SourceTensor, offset_bytes: int, into: memoryview) -> None:
        """Fill `into` from byte `offset_bytes` of `tensor`. Raise `InvalidCheckpoint` for missing bytes."""
        wanted = into.cast("B")
        if offset_bytes < 0 or offset_bytes + wanted.nbytes > tensor.n_bytes:
            raise InvalidCheckpoint(
                f"{clean_line(tensor.name)} has {tensor.n_bytes} bytes; bytes {offset_bytes} to "
                f"{offset_bytes + wanted.nbytes} were asked for."
            )
        fd = self.descriptor(tensor.shard)
        position = tensor.offset_bytes + offset_bytes
        done = 0
        while done < wanted.nbytes:
            try:
                n_bytes = os.preadv(fd, [wanted[done:]], position + done)
            except OSError as problem:
                raise _unreadable(tensor.shard, problem) from problem
            if n_bytes == 0:
                raise InvalidCheckpoint(
                    f"{_shown(tensor.shard)} ended in the middle of {clean_line(tensor.name)}.",
                    hint="It was cut while it was read; get it again.",
                )
            done += n_bytes

    def sha256_of(self, shard: str) -> str:
        """Return the hash of the whole shard in hex."""
        digest = hashlib.sha256()
        fd, position = self.descriptor(shard), 0
        try:
            while chunk := os.pread(fd, _CHUNK_BYTES, position):
                digest.update(chunk)
                position += len(chunk)
        except OSError as problem:
            raise _unreadable(shard, problem) from problem
        return digest.hexdigest()

    def close(self) -> None:
        """Close all shards, whether or not they changed."""
        with self._lock:
            descriptors, self._descriptors = list(self._descriptors.values()), {}
        for fd in descriptors:
            with suppress(OSError):
                os.close(fd)

    def _opened(self, shard: str) -> int:
        if shard not in self._stamps:
            raise InvalidCheckpoint(f"{_shown(shard)} is not here.", hint="It has to be fetched first.")
        fd = self._opener(shard)
        if stamp_of(fd) != self._stamps[shard]:
            os.close(fd)
            raise InvalidCheckpoint(
                f"{_shown(shard)} was changed since its header was read.",
                hint="Run it again when nothing writes to that file any more.",
            )
        return fd


class LocalSource:
    """The tensors of shards that are on this machine; a `TensorSource`."""

    def __init__(
        self,
        opener: Callable[[str], int],
        *,
        stamps: Mapping[str, Stamp],
        tensors: Mapping[str, SourceTensor],
        other_sha256s: Mapping[str, str],
    ) -> None:
        """`stamps` has the shards in working order, `other_sha256s` the files that decide the result too."""
        self._files = ShardFiles(opener, stamps)
        self.shards = tuple(stamps)
        self.tensors = tensors
        self.fingerprint = _fingerprint(stamps, tensors, other_sha256s)

    def fetch(self, shard: str) -> None:
        self._files.descriptor(shard)

    def release(self, shard: str) -> None:
        self._files.release(shard)

    def read(self, tensor: SourceTensor, offset_bytes: int, into: memoryview) -> None:
        self._files.read(tensor, offset_bytes, into)

    def sha256(self) -> str:
        return content_sha256({shard: self._files.sha256_of(shard) for shard in self.shards})

    def close(self) -> None:
        self._files.close()


def content_sha256(sha256s: Mapping[str, str]) -> str:
    """Return one hash over all shards, of the lines that `sha256sum` prints: the weights' identity."""
    lines = (f"{sha256}  {shard}\n" for shard, sha256 in sorted(sha256s.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _fingerprint(
    stamps: Mapping[str, Stamp], tensors: Mapping[str, SourceTensor], other_sha256s: Mapping[str, str]
) -> str:
    digest = hashlib.sha256()
    for name, sha256 in sorted(other_sha256s.items()):
        digest.update(f"{name} {sha256}\n".encode())
    for shard, stamp in sorted(stamps.items()):
        digest.update(f"{shard} {stamp.size_bytes} {stamp.mtime_ns}\n".encode())
    for tensor in tensors.values():
        digest.update(f"{tensor}\n".encode())
    return digest.hexdigest()


def _unreadable(shard: str, problem: OSError) -> ModelUnreadable:
    return ModelUnreadable(f"{_shown(shard)} cannot be read: {problem.strerror}.", hint="Check the disk.")


def _shown(shard: str) -> str:
    return clean_line(shard, max_chars=200)

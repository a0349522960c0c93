"""A GGUF in the cache that stands for a checkpoint while that is converted, and then is gone.

Knows neither how it is made nor what is in it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from edgeapp import paths
from edgeapp.errors import ConversionFailed
from edgeapp_converters.bridge_environment import bridge_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edgeapp_converters.shards import LocalSource
    from edgeapp_converters.source import TensorSource


class Workplace:
    """A folder of the cache for one checkpoint and one process at a time.

    Making one removes those that nobody works in any more: what a killed process left.
    """

    def __init__(self, identity: str) -> None:
        """Raise `ConversionFailed` while another process has the one for the same `identity`."""
        key = hashlib.sha256(identity.encode()).hexdigest()
        self.folder = bridge_folder() / f"checkpoint-{key[:32]}"
        with _alone():
            paths.make_private(self.folder)
            lock = _locked(self.folder)
            if lock is None:
                raise ConversionFailed(
                    "Another process is converting this checkpoint.", hint="Wait for it to end."
                )
            self._lock = lock
            for other in bridge_folder().glob("checkpoint-*"):
                if other != self.folder:
                    _remove_abandoned(other)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)


@contextmanager
def _alone() -> Iterator[None]:
    """Keep other processes from making or removing workplaces for a moment."""
    descriptor = os.open(paths.make_private(bridge_folder()), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _locked(folder: Path) -> int | None:
    """Return a descriptor that keeps `folder` locked, or None when somebody works in it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_abandoned(folder: Path) -> None:
    with suppress(FileNotFoundError):  # its process has just removed it
        lock = _locked(folder)
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


class BridgedSource:
    """A GGUF that stands for a checkpoint: a `TensorSource` with the checkpoint's identity."""

    def __init__(self, gguf: LocalSource, *, original: TensorSource, workplace: Workplace) -> None:
        self._gguf = gguf
        self._original = original
        self._workplace = workplace
        self.tensors = gguf.tensors
        self.shards = gguf.shards
        # Not of the file, which may be made again: an interrupted conversion goes on with the same bytes.
        self.fingerprint = hashlib.sha256(f"bridged {workplace.folder.name}".encode()).hexdigest()
        self.fetch = gguf.fetch
        self.release = gguf.release
        self.read = gguf.read
        self.sha256 = original.sha256

    def close(self) -> None:
        self._gguf.close()
        self._original.close()
        self._workplace.remove()

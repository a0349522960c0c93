"""A GGUF in the cache that stands for a checkpoint while that is converted, and then is gone.

Knows neither how it is made nor what is in it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from typing import TYPE_CHECKING

from edgeapp import paths
from edgeapp.errors import ConversionFailed
from edgeapp_converters.bridge_environment import bridge_folder

if TYPE_CHECKING:
    from edgeapp_converters.shards import LocalSource
    from edgeapp_converters.source import TensorSource


class Workplace:
    """A folder of the cache for one checkpoint and one process at a time."""

    def __init__(self, identity: str) -> None:
        key = hashlib.sha256(identity.encode()).hexdigest()
        self.folder = paths.make_private(bridge_folder() / f"checkpoint-{key[:32]}")
        self._lock = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as problem:
            os.close(self._lock)
            raise ConversionFailed(
                "Another process is converting this checkpoint.", hint="Wait for it to end."
            ) from problem

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)


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

"""Hand conversations over to the next worker, through files that outlive this process but not the machine.

The next worker reads what each file is about when it starts, and the state itself, verified, when somebody
continues that conversation. A file that is damaged, or of another model, costs time and never an answer.
Knows no llama.cpp.
"""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeapp.engine import prefix_file
from edgeapp.engine.prefix_store import PrefixStore, SavedSequence

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

_log = logging.getLogger(__name__)

SPARE_DISK_BYTES = 256 << 20
"""Stays free on the disk that takes the files."""
MAX_FILES = 4096
"""More are not looked at when conversations are taken in."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """`n_lost` conversations could not be written, for want of disk; `problem` is what the system said."""

    n_conversations: int = 0
    n_bytes: int = 0
    n_lost: int = 0
    problem: str = ""


class Parcel:
    """Conversations on their way into the existing `folder`, for the model with this key."""

    def __init__(self, folder: Path, model_key: str) -> None:
        self._folder = folder
        self._model_key = model_key
        self._held: list[SavedSequence] = []
        self._n_files = 0
        self._outcome = Outcome()

    def collect(self, entries: Iterable[SavedSequence], *, most_bytes: int) -> None:
        """Take `entries`, the least recently used first, so that their context can be freed.

        What does not fit into `most_bytes` of host memory is written at once.
        """
        n_bytes = 0
        for entry in entries:
            n_bytes += entry.n_bytes
            if n_bytes <= most_bytes:
                self._held.append(entry)
            else:
                n_bytes -= entry.n_bytes
                self._write(entry)

    def written(self) -> Outcome:
        """Write what is held, and say how it went."""
        while self._held:
            self._write(self._held.pop(0))
        return self._outcome

    def _write(self, entry: SavedSequence) -> None:
        path = self._folder / f"{self._n_files:06}.kv"
        self._n_files += 1
        before = self._outcome
        try:
            n_bytes = _write(path, prefix_file.pieces(self._model_key, entry))
        except OSError as refusal:
            problem = refusal.strerror or str(refusal)
            self._outcome = replace(before, n_lost=before.n_lost + 1, problem=problem)
            _delete(path)
        else:
            self._outcome = replace(
                before, n_conversations=before.n_conversations + 1, n_bytes=before.n_bytes + n_bytes
            )


def _write(path: Path, content: Sequence[bytes | bytearray]) -> int:
    n_bytes = sum(map(len, content))
    if shutil.disk_usage(path.parent).free < n_bytes + SPARE_DISK_BYTES:
        raise OSError(None, "the disk is full")
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    # Nobody needs it after a loss of power, and the sum finds what is torn.
    prefix_file.write(path, content, is_lasting=False)
    return n_bytes


@dataclass(frozen=True, kw_only=True, eq=False)
class _OnDisk(SavedSequence):
    """A saved sequence whose `data` is still in the file at `path`."""

    path: Path


class ParkedConversations:
    """What an earlier worker left in `folder`, for the model with this key."""

    def __init__(self, folder: Path, model_key: str) -> None:
        self._model_key = model_key
        self._index = PrefixStore(1 << 62)
        for path in _files(folder):
            self._note(path)

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[SavedSequence]:
        """Yield all, verified or not; `verified` tells whether to believe one."""
        return iter(tuple(self._index))

    def claim(self, key: str, tokens: Sequence[int], *, n_known: int) -> SavedSequence | None:
        """Return the longest that shares more than `n_known` leading tokens, verified."""
        while (found := self._index.longest(key, tokens)) is not None and found[1] > n_known:
            verified = self.verified(found[0])
            if verified is not None:
                # A conversation that only begins alike leaves it to the one that it belongs to.
                is_the_same = 2 * found[1] >= len(verified.tokens)
                return self._index.take(verified) if is_the_same else verified
        return None

    def verified(self, entry: SavedSequence) -> SavedSequence | None:
        """Return `entry` with its state, read and found whole; None when it has to be forgotten."""
        if not isinstance(entry, _OnDisk):
            return entry
        self._index.take(entry)
        whole = self._read(entry)
        _delete(entry.path)
        if whole is not None:
            self._index.put(whole)
        return whole

    def remaining(self) -> Iterator[SavedSequence]:
        """Take out all that nobody has continued, verified, one at a time."""
        while (entry := next(iter(self), None)) is not None:
            whole = self.verified(entry)
            if whole is not None:
                yield self._index.take(whole)

    def clear(self) -> int:
        """Forget all of them; return the bytes of host memory that they held."""
        n_bytes = sum(len(entry.data) for entry in self)
        for entry in self:
            if isinstance(entry, _OnDisk):
                _delete(entry.path)
        self._index.clear()
        return n_bytes

    def _note(self, path: Path) -> None:
        try:
            entry = prefix_file.read_subject(path, model_key=self._model_key)
        except prefix_file.Damaged:
            _log.warning("a parked conversation is damaged or of another model, and is read again: %s", path)
            _delete(path)
        except OSError as problem:
            _log.warning("a parked conversation cannot be read: %s", problem)
        else:
            self._index.put(
                _OnDisk(
                    key=entry.key,
                    tokens=entry.tokens,
                    rendered=entry.rendered,
                    data=b"",
                    n_least=entry.n_least,
                    path=path,
                )
            )

    def _read(self, entry: _OnDisk) -> SavedSequence | None:
        try:
            return prefix_file.read(entry.path, model_key=self._model_key, key=entry.key, packed=entry.packed)
        except (prefix_file.Damaged, OSError) as problem:
            _log.warning("a parked conversation cannot be used, and is read again: %s", problem)
            return None


def _files(folder: Path) -> list[Path]:
    with suppress(OSError):
        return sorted(folder.glob("*.kv"))[-MAX_FILES:]
    return []


def _delete(path: Path) -> None:
    with suppress(OSError):
        path.unlink()

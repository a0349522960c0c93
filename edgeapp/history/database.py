"""One open connection: transactions, and SQLite's errors in our words. Knows no table.

A commit is on the disk when it returns (WAL, synchronous=FULL). Calls may come from any thread, one at a
time.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from edgeapp.errors import HistoryBusy, HistoryDamaged, HistoryError, HistoryFull

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from typing import IO

BUSY_TIMEOUT_S = 5.0
_PRIMARY_CODE = 0xFF  # an extended result code keeps the primary one in its low byte


def connect(path: Path, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> sqlite3.Connection:
    """Open or create the file; raise `HistoryError`."""
    with translated(path):
        connection = sqlite3.connect(
            path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False
        )
        try:
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
                connection.execute(f"PRAGMA {pragma}")
        except BaseException:
            connection.close()
            raise
        return connection


class Database:
    """An open history; a context manager that closes it."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        *,
        lock: IO[bytes] | None = None,
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self.now_s = clock_s
        self._connection = connection
        self._lock = lock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()
        if self._lock is not None:
            self._lock.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """All or nothing; what is inside another `writing` belongs to that."""
        if self._connection.in_transaction:
            yield
            return
        with translated(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                # After some errors, a full disk among them, SQLite has rolled back already.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Let all queries inside see the same state."""
        if self._connection.in_transaction:
            yield
            return
        with translated(self.path):
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.execute("ROLLBACK")

    def execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        with translated(self.path):
            return self._connection.execute(statement, values)

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with translated(self.path):
            return self._connection.execute(query, values).fetchall()

    def row(self, query: str, values: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        rows = self.rows(query, values)
        return rows[0] if rows else None


def suspect_file(path: Path) -> Path:
    """Return the file whose existence demands a thorough check at the next start."""
    return path.with_name(path.name + ".suspect")


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors about the file `path` into `HistoryError`s; remember damage for the next start."""
    try:
        yield
    except sqlite3.Error as problem:
        error = _error_of(problem, path)
        if isinstance(error, HistoryDamaged):
            _mark_as_suspect(path)
        raise error from problem


def _mark_as_suspect(path: Path) -> None:
    try:
        suspect_file(path).touch()
    except OSError:
        return  # the disk may be the cause; opening finds damage without the mark, only later


def _error_of(problem: sqlite3.Error, path: Path) -> HistoryError:
    code: int = getattr(problem, "sqlite_errorcode", None) or sqlite3.SQLITE_ERROR
    if code == sqlite3.SQLITE_IOERR_WRITE:
        return HistoryFull(
            "The chat history could not be written: the disk refused it.",
            hint=f"Look for a quota, a limit on file sizes or a failing disk under {path.parent}.",
        )
    match code & _PRIMARY_CODE:
        case sqlite3.SQLITE_FULL:
            return HistoryFull(
                "The disk is full: the chat history could not be written.",
                hint=f"Free some space on the disk of {path.parent}; nothing written before is lost.",
            )
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return HistoryBusy(
                f"Another edgeapp has kept the chat history locked for {BUSY_TIMEOUT_S:.0f} s.",
                hint="Try again, or close the other one.",
            )
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return HistoryDamaged(
                f"The chat history {path} is damaged.",
                hint="Start edgeapp again: it then takes the last good backup.",
            )
        case _:
            return HistoryError(f"The chat history {path} cannot be used: {problem}.")

"""Open the history: create, check, restore, back up, migrate, purge. What happened is said in one notice.

Every open history holds a shared lock on `history.db.lock`, so that a damaged file is never replaced under
the hands of another process.
"""

from __future__ import annotations

import fcntl
import logging
import sqlite3
import time
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from edgeapp import durable, paths
from edgeapp.errors import HistoryDamaged, HistoryError, HistoryFull
from edgeapp.history import backups, deletions, schema
from edgeapp.history.database import Database, connect, suspect_file, translated

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_log = logging.getLogger(__name__)
_SMALL_BYTES = 4 << 20
"""A file of this size is checked in about 10 ms, so it is checked at every start."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """An open history, and a sentence for the user when something happened to it."""

    database: Database
    notice: str = ""


def open_history(path: Path | None = None, *, clock_s: Callable[[], float] = time.time) -> Opened:
    """Open the history at `path`, by default the user's; create it when there is none.

    A damaged file is replaced by its last good backup, and the notice says so. Raise `HistoryError`.
    """
    path = path or paths.history_file()
    try:
        paths.make_private(path.parent)
        lock = _open_private(path.with_name(path.name + ".lock"))
    except OSError as problem:
        raise HistoryError(f"The chat history {path} cannot be used: {problem.strerror}.") from problem
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        return _open_locked(path, lock, clock_s)
    except OSError as problem:
        lock.close()
        raise HistoryError(f"The chat history {path} cannot be used: {problem.strerror}.") from problem
    except BaseException:
        lock.close()
        raise


def _open_locked(path: Path, lock: IO[bytes], clock_s: Callable[[], float]) -> Opened:
    notice = ""
    try:
        connection = _ready(path, now_s=clock_s())
    except HistoryDamaged:
        notice = _restored(path, lock, now_s=clock_s())
        connection = _ready(path, now_s=clock_s())
    database = Database(connection, path, lock=lock, clock_s=clock_s)
    try:
        deletions.purge_old(database)
    except HistoryFull as problem:
        # What is there can still be read, and deleting is how room is made.
        _log.warning("what was deleted long ago stays a while: %s", problem)
    except BaseException:
        connection.close()
        raise
    return Opened(database=database, notice=notice)


def _ready(path: Path, *, now_s: float) -> sqlite3.Connection:
    connection = _checked(path, now_s=now_s)
    try:
        _prepare(connection, path, now_s=now_s)
    except BaseException:
        connection.close()
        raise
    return connection


def _checked(path: Path, *, now_s: float) -> sqlite3.Connection:
    """Open `path`; raise `HistoryDamaged` for a file that is, as far as it was checked."""
    if backups.is_lost(path):
        raise HistoryDamaged(f"The chat history {path} is gone.")
    if not path.exists():
        # Never open what exists: closing it would drop the locks of SQLite in this process.
        path.touch(mode=0o600)
    connection = connect(path)
    try:
        with translated(path):
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            is_bad = _deserves_check(path, now_s=now_s) and not backups.is_sound(connection)
    except BaseException:
        connection.close()
        raise
    if is_bad:
        connection.close()
        raise HistoryDamaged(f"The chat history {path} is damaged.")
    return connection


def _deserves_check(path: Path, *, now_s: float) -> bool:
    is_small = path.stat().st_size <= _SMALL_BYTES
    return is_small or suspect_file(path).exists() or backups.is_due(path, now_s=now_s)


def _prepare(connection: sqlite3.Connection, path: Path, *, now_s: float) -> None:
    with translated(path):
        is_old = schema.needs_migration(connection)
        is_new = connection.execute("PRAGMA user_version").fetchone() == (0,)
    if not is_new and (is_old or backups.is_due(path, now_s=now_s)):
        _back_up(connection, path)
    with translated(path):
        if is_old:
            schema.migrate(connection)
        if suspect_file(path).exists():
            _rebuild_search(connection)
            suspect_file(path).unlink(missing_ok=True)


def _back_up(connection: sqlite3.Connection, path: Path) -> None:
    """Make a backup, unless another process is at it; without one there is a warning, and life goes on."""
    with _open_private(path.with_name(path.name + ".backup-lock")) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        try:
            backups.remove_left_over(path)
            if not backups.back_up(connection, path):
                _log.warning("the copy of the chat history is not sound; the old backup stays")
        except (OSError, sqlite3.Error) as problem:
            _log.warning("the chat history could not be backed up: %s", problem)


def _rebuild_search(connection: sqlite3.Connection) -> None:
    """`quick_check` does not look into the search index, which can be made anew at any time."""
    for table in ("message_search", "title_search"):
        connection.execute(f"INSERT INTO {table} ({table}) VALUES ('rebuild')")  # noqa: S608 - two constants


def _restored(path: Path, lock: IO[bytes], *, now_s: float) -> str:
    """Replace the damaged file by its last good backup, or by an empty one; return the notice."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as problem:
        raise HistoryDamaged(
            f"The chat history {path} is damaged, and another edgeapp has it open.",
            hint="Close the other edgeapp; the next start then takes the last good backup.",
        ) from problem
    with translated(path):
        copy = backups.newest_sound_copy(path)
    kept = backups.set_aside(path, now_s=now_s)
    if copy is not None:
        durable.move(copy[0], path)
    suspect_file(path).unlink(missing_ok=True)
    fcntl.flock(lock, fcntl.LOCK_SH)
    return _notice(kept, made_s=copy[1] if copy else None)


def _notice(kept: Path | None, *, made_s: float | None) -> str:
    what = f"damaged (its file is kept as {kept})" if kept else "gone"
    if made_s is None:
        return f"The chat history was {what} and there is no good backup, so it starts empty."
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime(made_s))
    return f"The chat history was {what}. The backup of {made} took its place."


def _open_private(path: Path) -> IO[bytes]:
    """Open `path`, created when it is missing, readable by the user alone."""
    path.touch(mode=0o600)
    return path.open("rb+")

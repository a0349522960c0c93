"""Copies of the history beside it: made once a day, checked before they count, two generations.

history.db.backup-1 is the newer one, history.db.backup-2 the one before. Knows no table.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING

from edgeapp import durable

if TYPE_CHECKING:
    from pathlib import Path

PERIOD_S = 24 * 3600.0


def backup_files(path: Path) -> tuple[Path, Path]:
    """Return where the backups of `path` are, the newer one first."""
    return path.with_name(path.name + ".backup-1"), path.with_name(path.name + ".backup-2")


def is_due(path: Path, *, now_s: float) -> bool:
    """Tell whether the last backup is older than a day, or dated in the future."""
    try:
        age_s = now_s - backup_files(path)[0].stat().st_mtime
    except FileNotFoundError:
        return True
    return not 0 <= age_s < PERIOD_S


def is_sound(connection: sqlite3.Connection) -> bool:
    """Read the whole file and tell whether SQLite finds no fault in it."""
    try:
        return connection.execute("PRAGMA quick_check(1)").fetchall() == [("ok",)]
    except sqlite3.DatabaseError as problem:
        if _means_damage(problem):
            return False
        raise


def back_up(connection: sqlite3.Connection, path: Path) -> bool:
    """Copy the history, check the copy and let it take the place of the oldest; return whether it did.

    Raise `OSError` or `sqlite3.Error`; the older backups are then as they were.
    """
    newer, older = backup_files(path)
    part = newer.with_name(f"{newer.name}.{os.getpid()}.part")
    try:
        part.unlink(missing_ok=True)
        if not _copy(connection, part):
            return False
        _sync(part)
        if newer.exists():
            durable.move(newer, older)
        durable.move(part, newer)
        return True
    finally:
        _remove(part)


def newest_sound_copy(path: Path) -> tuple[Path, float] | None:
    """Copy the newest sound backup to a file beside `path`; return that and when the backup was made.

    None when there is no sound one. Raise `OSError` or `sqlite3.Error`, for a full disk say.
    """
    part = path.with_name(path.name + ".part")
    for backup in backup_files(path):
        if not backup.exists():
            continue
        try:
            with closing(_open_existing(backup)) as source:
                is_good = _copy(source, part)
        except sqlite3.DatabaseError as problem:
            if not _means_damage(problem):
                raise
            is_good = False
        if is_good:
            _sync(part)
            return part, backup.stat().st_mtime
        _remove(part)
    return None


def is_lost(path: Path) -> bool:
    """Tell whether there are backups of `path`, but neither it nor a journal holds anything."""
    holders = (path, path.with_name(path.name + "-wal"))
    is_empty = not any(file.exists() and file.stat().st_size for file in holders)
    return is_empty and any(backup.exists() for backup in backup_files(path))


def set_aside(path: Path, *, now_s: float) -> Path | None:
    """Rename the damaged file and its journals, so that a person can look at them; None if there is none."""
    was_there = path.exists() and path.stat().st_size > 0
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now_s))
    kept = path.with_name(f"{path.name}.damaged-{stamp}")
    for suffix in ("-wal", "-shm", ""):
        source = path.with_name(path.name + suffix)
        if source.exists() and source.stat().st_size:
            source.replace(kept.with_name(kept.name + suffix))
        else:
            source.unlink(missing_ok=True)
    durable.sync_folder(path.parent)
    return kept if was_there else None


def remove_left_over(path: Path) -> None:
    """Remove copies that a killed process did not finish. Nobody else may be making one."""
    for left in path.parent.glob(f"{path.name}.backup-1.*.part*"):
        _remove(left)


def _means_damage(problem: sqlite3.DatabaseError) -> bool:
    return (problem.sqlite_errorcode & 0xFF) in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def _copy(source: sqlite3.Connection, target: Path) -> bool:
    target.unlink(missing_ok=True)
    target.touch(mode=0o600)
    with closing(sqlite3.connect(target, isolation_level=None)) as copy:
        source.backup(copy)
        # A copy of a WAL database is one too, and would need its journal to be read.
        copy.execute("PRAGMA journal_mode=DELETE")
        return is_sound(copy)


def _open_existing(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(part: Path) -> None:
    for suffix in ("", "-journal", "-wal", "-shm"):
        part.with_name(part.name + suffix).unlink(missing_ok=True)

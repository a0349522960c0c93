"""Delete messages and conversations, and take that back. What is not taken back is removed later.

A deletion hides; `purge` removes. Deletions are taken back newest first, so that no message ever shows
without its parent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeapp.history import conversations, tree

if TYPE_CHECKING:
    from edgeapp.history.database import Database

KEPT_S = 7 * 24 * 3600.0
KEPT_COUNT = 100
"""A deletion can be taken back for a week, and until a hundred later ones."""

_SUBTREE = """WITH RECURSIVE subtree (id) AS (
    SELECT ? UNION ALL
    SELECT m.id FROM subtree JOIN messages AS m ON m.parent_id = subtree.id AND m.deletion_id IS NULL)"""


@dataclass(frozen=True, kw_only=True)
class Undone:
    """What came back: a message with all below it, or, when `message_id` is None, a conversation."""

    conversation_id: int
    message_id: int | None


def delete_conversation(database: Database, conversation_id: int) -> None:
    """Hide the conversation; raise `NotInHistory`."""
    with database.writing():
        conversations.get(database, conversation_id)
        deletion_id = _note(database, conversation_id, None, was_active=False)
        database.execute(
            "UPDATE conversations SET deletion_id = ? WHERE id = ?", (deletion_id, conversation_id)
        )


def delete_message(database: Database, message_id: int) -> None:
    """Hide the message and all below it; the active path then takes its newest sibling, or ends before it.

    Raise `NotInHistory`.
    """
    with database.writing():
        found = tree.message(database, message_id)
        place = (found.conversation_id, found.parent_id)
        was_active = tree.next_of(database, *place) == message_id
        deletion_id = _note(database, found.conversation_id, message_id, was_active=was_active)
        database.execute(
            f"{_SUBTREE} UPDATE messages SET deletion_id = ? WHERE id IN (SELECT id FROM subtree)",  # noqa: S608
            (message_id, deletion_id),
        )
        if was_active:
            tree.set_next(database, *place, _newest_child(database, *place))


def undo(database: Database, *, conversation_id: int | None = None) -> Undone | None:
    """Take the last deletion back, of all or of one conversation; None when there is none left."""
    query = (
        "SELECT id, conversation_id, message_id, was_active FROM deletions WHERE {} ORDER BY id DESC LIMIT 1"
    )
    condition = "1" if conversation_id is None else "conversation_id = ?"
    values = () if conversation_id is None else (conversation_id,)
    with database.writing():
        row = database.row(query.format(condition), values)
        if row is None:
            return None
        deletion_id, of_conversation, message_id, was_active = row
        for table in ("messages", "conversations"):
            database.execute(
                f"UPDATE {table} SET deletion_id = NULL WHERE deletion_id = ?",  # noqa: S608 - two constants
                (deletion_id,),
            )
        if was_active:
            parent_id = tree.message(database, message_id).parent_id
            tree.set_next(database, of_conversation, parent_id, message_id)
        database.execute("DELETE FROM deletions WHERE id = ?", (deletion_id,))
        return Undone(conversation_id=of_conversation, message_id=message_id)


def purge(database: Database) -> int:
    """Remove everything deleted for good; return how many deletions that were.

    The bytes are overwritten in the history; its backups keep them for up to two days more.
    """
    n_purged = _purge(database, "1", ())
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return n_purged


def purge_old(database: Database) -> int:
    """Remove what was deleted a week or a hundred deletions ago; return how many deletions that were."""
    oldest_s = database.now_s() - KEPT_S
    newest = "SELECT id FROM deletions ORDER BY id DESC LIMIT ?"
    return _purge(database, f"deleted_s < ? OR id NOT IN ({newest})", (oldest_s, KEPT_COUNT))


def _purge(database: Database, condition: str, values: tuple[float, ...]) -> int:
    query = f"SELECT id FROM deletions WHERE {condition} ORDER BY id"  # noqa: S608 - our own conditions
    if not database.rows(query, values):
        return 0
    with database.writing():
        purged = database.rows(query, values)
        for (deletion_id,) in purged:
            database.execute("DELETE FROM messages WHERE deletion_id = ?", (deletion_id,))
            database.execute("DELETE FROM conversations WHERE deletion_id = ?", (deletion_id,))
            database.execute("DELETE FROM deletions WHERE id = ?", (deletion_id,))
        return len(purged)


def _note(database: Database, conversation_id: int, message_id: int | None, *, was_active: bool) -> int:
    cursor = database.execute(
        "INSERT INTO deletions (conversation_id, message_id, was_active, deleted_s) VALUES (?, ?, ?, ?)",
        (conversation_id, message_id, was_active, database.now_s()),
    )
    return cursor.lastrowid or 0


def _newest_child(database: Database, conversation_id: int, parent_id: int | None) -> int | None:
    row = database.row(
        """SELECT max(id) FROM messages
            WHERE conversation_id = ? AND parent_id IS ? AND deletion_id IS NULL""",
        (conversation_id, parent_id),
    )
    return row[0] if row else None

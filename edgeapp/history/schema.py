"""The tables, as an ordered list of migrations. A migration is never changed once it was released.

conversations.first_id and messages.next_id name the child that is on the active path, so a switch to another
branch and back ends where it was. An id is always greater than its parent's. `deletion_id` marks what was
deleted and can still come back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.errors import HistoryError, HistoryTooNew

if TYPE_CHECKING:
    import sqlite3

_APPLICATION_ID = 0x65646765  # "edge"

_FIRST = (
    """CREATE TABLE conversations (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        title TEXT NOT NULL,
        model TEXT NOT NULL,
        preset TEXT NOT NULL,
        settings TEXT NOT NULL,
        created_s REAL NOT NULL,
        updated_s REAL NOT NULL,
        pinned INTEGER NOT NULL DEFAULT 0,
        first_id INTEGER,
        deletion_id INTEGER
    ) STRICT""",
    """CREATE INDEX conversations_as_listed ON conversations (pinned DESC, updated_s DESC, id DESC)
        WHERE deletion_id IS NULL""",
    """CREATE TABLE messages (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        conversation_id INTEGER NOT NULL REFERENCES conversations ON DELETE CASCADE,
        parent_id INTEGER REFERENCES messages ON DELETE CASCADE,
        next_id INTEGER,
        role TEXT NOT NULL CHECK (role IN ('system', 'user', 'assistant', 'tool')),
        text TEXT NOT NULL,
        reasoning TEXT NOT NULL,
        tool_calls TEXT NOT NULL,
        tool_call_id TEXT NOT NULL,
        name TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('complete', 'stopped', 'length', 'failed')),
        is_sent INTEGER NOT NULL DEFAULT 1,
        stats TEXT NOT NULL DEFAULT '',
        created_s REAL NOT NULL,
        deletion_id INTEGER,
        CHECK (parent_id < id)
    ) STRICT""",
    "CREATE INDEX messages_by_parent ON messages (conversation_id, parent_id)",
    "CREATE INDEX messages_of_parent ON messages (parent_id)",
    "CREATE INDEX messages_deleted ON messages (deletion_id) WHERE deletion_id IS NOT NULL",
    "CREATE INDEX conversations_deleted ON conversations (deletion_id) WHERE deletion_id IS NOT NULL",
    """CREATE TABLE deletions (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        conversation_id INTEGER NOT NULL REFERENCES conversations ON DELETE CASCADE,
        message_id INTEGER,
        was_active INTEGER NOT NULL,
        deleted_s REAL NOT NULL
    ) STRICT""",
    "CREATE INDEX deletions_by_conversation ON deletions (conversation_id)",
    """CREATE VIRTUAL TABLE message_search USING fts5(
        text, content='messages', content_rowid='id', tokenize='unicode61 remove_diacritics 2')""",
    """CREATE VIRTUAL TABLE title_search USING fts5(
        title, content='conversations', content_rowid='id', tokenize='unicode61 remove_diacritics 2')""",
    """CREATE TRIGGER message_added AFTER INSERT ON messages BEGIN
        INSERT INTO message_search (rowid, text) VALUES (new.id, new.text); END""",
    """CREATE TRIGGER message_removed AFTER DELETE ON messages BEGIN
        INSERT INTO message_search (message_search, rowid, text) VALUES ('delete', old.id, old.text); END""",
    """CREATE TRIGGER message_changed AFTER UPDATE OF text ON messages BEGIN
        INSERT INTO message_search (message_search, rowid, text) VALUES ('delete', old.id, old.text);
        INSERT INTO message_search (rowid, text) VALUES (new.id, new.text); END""",
    """CREATE TRIGGER title_added AFTER INSERT ON conversations BEGIN
        INSERT INTO title_search (rowid, title) VALUES (new.id, new.title); END""",
    """CREATE TRIGGER title_removed AFTER DELETE ON conversations BEGIN
        INSERT INTO title_search (title_search, rowid, title) VALUES ('delete', old.id, old.title); END""",
    """CREATE TRIGGER title_changed AFTER UPDATE OF title ON conversations BEGIN
        INSERT INTO title_search (title_search, rowid, title) VALUES ('delete', old.id, old.title);
        INSERT INTO title_search (rowid, title) VALUES (new.id, new.title); END""",
    f"PRAGMA application_id = {_APPLICATION_ID}",
)

MIGRATIONS = (_FIRST,)
"""Step n brings a file from version n to n + 1."""


def needs_migration(connection: sqlite3.Connection) -> bool:
    """Tell whether the file is older than this edgeapp; raise `HistoryError` for one that is not ours."""
    version = _version(connection)
    if version > len(MIGRATIONS):
        raise HistoryTooNew(
            f"The chat history has version {version}; this edgeapp knows versions up to {len(MIGRATIONS)}.",
            hint="Update edgeapp.",
        )
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (n_tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application != _APPLICATION_ID and (version or n_tables):
        raise HistoryError(
            "The file of the chat history is another program's database.", hint="Move it away."
        )
    return version < len(MIGRATIONS)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the file to the newest version, or leave it as it is."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        for step in range(_version(connection), len(MIGRATIONS)):
            for statement in MIGRATIONS[step]:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    assert isinstance(version, int)  # noqa: S101 - by SQLite's documentation
    return version

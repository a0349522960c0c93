"""The messages of a conversation: a tree, and one active path from its root to a leaf.

A changed message and a second answer are siblings of the first; nothing that was said is overwritten.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from edgeapp.errors import NotInHistory
from edgeapp.history import conversations
from edgeapp.history.records import MESSAGE_COLUMNS, message_of, title_of, tool_calls_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgeapp.history.database import Database
    from edgeapp.history.records import Conversation, MessageState, Stats, StoredMessage
    from edgeapp.protocol import Message

# `next_id > id` holds in every sound file, and ends the walk in a damaged one.
_PATH = """WITH RECURSIVE path (id, depth) AS (
    SELECT first_id, 0 FROM conversations WHERE id = ? AND deletion_id IS NULL
    UNION ALL
    SELECT m.next_id, path.depth + 1 FROM path JOIN messages AS m ON m.id = path.id WHERE m.next_id > m.id)"""
_PATH_MESSAGES = f"""{_PATH}
    SELECT {MESSAGE_COLUMNS} FROM path JOIN messages AS m ON m.id = path.id ORDER BY path.depth"""  # noqa: S608
_LEAF = f"""{_PATH}
    SELECT path.id FROM path WHERE path.id IS NOT NULL ORDER BY path.depth DESC LIMIT 1"""  # noqa: S608
ANCESTORS = """WITH RECURSIVE ancestors (id, parent_id) AS (
    SELECT id, parent_id FROM messages WHERE id = ?
    UNION ALL
    SELECT m.id, m.parent_id FROM ancestors JOIN messages AS m ON m.id = ancestors.parent_id)"""


def path(database: Database, conversation_id: int) -> tuple[StoredMessage, ...]:
    """Return the messages from the root to the active leaf; raise `NotInHistory`."""
    with database.reading():
        conversations.get(database, conversation_id)
        return tuple(map(message_of, database.rows(_PATH_MESSAGES, (conversation_id,))))


def message(database: Database, message_id: int) -> StoredMessage:
    """Raise `NotInHistory` for one that is not there, or was deleted."""
    row = database.row(
        f"""SELECT {MESSAGE_COLUMNS} FROM messages AS m JOIN conversations AS c ON c.id = m.conversation_id
            WHERE m.id = ? AND m.deletion_id IS NULL AND c.deletion_id IS NULL""",  # noqa: S608 - constants
        (message_id,),
    )
    if row is None:
        raise NotInHistory(f"There is no message {message_id}.")
    return message_of(row)


def alternatives(database: Database, message_id: int) -> tuple[StoredMessage, ...]:
    """Return the message and its siblings, oldest first; raise `NotInHistory`."""
    with database.reading():
        found = message(database, message_id)
        rows = database.rows(
            f"""SELECT {MESSAGE_COLUMNS} FROM messages AS m
                WHERE m.conversation_id = ? AND m.parent_id IS ? AND m.deletion_id IS NULL ORDER BY m.id""",  # noqa: S608
            (found.conversation_id, found.parent_id),
        )
        return tuple(map(message_of, rows))


def append(
    database: Database,
    conversation_id: int,
    said: Message,
    *,
    state: MessageState = "complete",
    stats: Stats | None = None,
) -> StoredMessage:
    """Add a message after the active leaf; raise `NotInHistory`."""
    with database.writing():
        conversation = conversations.get(database, conversation_id)
        leaf = database.row(_LEAF, (conversation_id,))
        parent_id = leaf[0] if leaf else None
        added = insert(database, conversation_id, parent_id, said, state=state, stats=stats)
        if not conversation.title and said.role == "user":
            conversations.rename(database, conversation_id, said.content)
        return added


def add_alternative(
    database: Database, message_id: int, said: Message, *, state: MessageState = "complete"
) -> StoredMessage:
    """Add a sibling of the message and make it the active leaf; raise `NotInHistory`."""
    with database.writing():
        old = message(database, message_id)
        _activate(database, message_id)
        return insert(database, old.conversation_id, old.parent_id, said, state=state)


def edit(database: Database, message_id: int, text: str) -> StoredMessage:
    """Say something else in place of the message, on a new branch; raise `NotInHistory`."""
    with database.writing():
        old = message(database, message_id)
        changed = msgspec.structs.replace(old.message, content=text)
        return add_alternative(database, message_id, changed)


def switch(database: Database, message_id: int) -> tuple[StoredMessage, ...]:
    """Make the message part of the active path, which goes on below it as before; return the path.

    Raise `NotInHistory`.
    """
    with database.writing():
        found = message(database, message_id)
        _activate(database, message_id)
        return path(database, found.conversation_id)


def branch(database: Database, message_id: int) -> Conversation:
    """Begin a new conversation with copies of everything up to the message; raise `NotInHistory`."""
    with database.writing():
        origin = conversations.get(database, message(database, message_id).conversation_id)
        new = conversations.new(
            database,
            title=title_of(f"{origin.title} (branch)"),
            model=origin.model,
            preset=origin.preset,
            settings=origin.settings,
        )
        parent_id = None
        for found in _up_to(database, message_id):
            copy = insert(database, new.id, parent_id, found.message, state=found.state, stats=found.stats)
            if not found.is_sent:
                set_sent(database, (copy.id,), is_sent=False)
            parent_id = copy.id
        return conversations.get(database, new.id)


def set_sent(database: Database, message_ids: Iterable[int], *, is_sent: bool) -> None:
    """Say whether the model still gets these messages."""
    with database.writing():
        for message_id in message_ids:
            database.execute("UPDATE messages SET is_sent = ? WHERE id = ?", (is_sent, message_id))


def insert(
    database: Database,
    conversation_id: int,
    parent_id: int | None,
    said: Message,
    *,
    state: MessageState,
    stats: Stats | None = None,
) -> StoredMessage:
    """Add a message below `parent_id`, of the same conversation, and make it the next of its parent."""
    now_s = database.now_s()
    calls = tool_calls_json(said.tool_calls)
    with database.writing():
        cursor = database.execute(
            """INSERT INTO messages (conversation_id, parent_id, role, text, reasoning, tool_calls,
                tool_call_id, name, state, stats, created_s) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
            (conversation_id, parent_id, said.role, said.content, said.reasoning, calls, said.tool_call_id,
             said.name, state, stats_json(stats), now_s),
        )  # fmt: skip
        identity = cursor.lastrowid or 0
        set_next(database, conversation_id, parent_id, identity)
        database.execute("UPDATE conversations SET updated_s = ? WHERE id = ?", (now_s, conversation_id))
        return message(database, identity)


def rewrite(
    database: Database, message_id: int, said: Message, *, state: MessageState, stats: Stats | None = None
) -> None:
    """Replace a message that is still being written, deleted or not; the active path stays as it is."""
    with database.writing():
        database.execute(
            """UPDATE messages SET text = ?, reasoning = ?, tool_calls = ?, state = ?, stats = ?
                WHERE id = ?""",
            (said.content, said.reasoning, tool_calls_json(said.tool_calls), state, stats_json(stats),
             message_id),
        )  # fmt: skip
        database.execute(
            """UPDATE conversations SET updated_s = ?
                WHERE id = (SELECT conversation_id FROM messages WHERE id = ?)""",
            (database.now_s(), message_id),
        )


def set_next(database: Database, conversation_id: int, parent_id: int | None, child_id: int | None) -> None:
    """Let the active path go from `parent_id`, or from the beginning, to `child_id`."""
    if parent_id is None:
        database.execute("UPDATE conversations SET first_id = ? WHERE id = ?", (child_id, conversation_id))
    else:
        database.execute("UPDATE messages SET next_id = ? WHERE id = ?", (child_id, parent_id))


def next_of(database: Database, conversation_id: int, parent_id: int | None) -> int | None:
    """Return where the active path goes from `parent_id`, or from the beginning."""
    if parent_id is None:
        row = database.row("SELECT first_id FROM conversations WHERE id = ?", (conversation_id,))
    else:
        row = database.row("SELECT next_id FROM messages WHERE id = ?", (parent_id,))
    return row[0] if row else None


def stats_json(stats: Stats | None) -> str:
    """Return `stats` as the database keeps them; nothing for none."""
    return msgspec.json.encode(stats).decode() if stats else ""


def _activate(database: Database, message_id: int) -> None:
    conversation_id = message(database, message_id).conversation_id
    query = f"{ANCESTORS} SELECT id, parent_id FROM ancestors"  # noqa: S608 - constants
    for child_id, parent_id in database.rows(query, (message_id,)):
        set_next(database, conversation_id, parent_id, child_id)


def _up_to(database: Database, message_id: int) -> tuple[StoredMessage, ...]:
    rows = database.rows(
        f"""{ANCESTORS} SELECT {MESSAGE_COLUMNS} FROM ancestors JOIN messages AS m ON m.id = ancestors.id
            ORDER BY m.id""",  # noqa: S608 - constants
        (message_id,),
    )
    return tuple(map(message_of, rows))

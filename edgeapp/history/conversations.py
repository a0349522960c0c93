"""Conversations as a list: make, find, rename, pin, keep settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from edgeapp.cleantext import clean_line
from edgeapp.errors import NotInHistory
from edgeapp.history.records import CONVERSATION_COLUMNS, conversation_of, title_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeapp.history.database import Database
    from edgeapp.history.records import Conversation

_FIRST_PAGE = f"""SELECT {CONVERSATION_COLUMNS} FROM conversations AS c WHERE c.deletion_id IS NULL
    ORDER BY c.pinned DESC, c.updated_s DESC, c.id DESC LIMIT ?"""  # noqa: S608 - constants
_NEXT_PAGE = f"""SELECT {CONVERSATION_COLUMNS} FROM conversations AS c WHERE c.deletion_id IS NULL
    AND (c.pinned, c.updated_s, c.id) < (?, ?, ?)
    ORDER BY c.pinned DESC, c.updated_s DESC, c.id DESC LIMIT ?"""  # noqa: S608 - constants


def new(
    database: Database,
    *,
    title: str = "",
    model: str = "",
    preset: str = "",
    settings: Mapping[str, Any] | None = None,
) -> Conversation:
    """Begin a conversation. Without a title it takes the beginning of its first user message.

    `settings` is anything that JSON can say.
    """
    now_s = database.now_s()
    with database.writing():
        cursor = database.execute(
            """INSERT INTO conversations (title, model, preset, settings, created_s, updated_s)
                VALUES (?, ?, ?, ?, ?, ?)""",
            (title_of(title), clean_line(model), clean_line(preset), _json(settings or {}), now_s, now_s),
        )
        return get(database, cursor.lastrowid or 0)


def get(database: Database, conversation_id: int) -> Conversation:
    """Raise `NotInHistory` for one that is not there, or was deleted."""
    row = database.row(
        f"SELECT {CONVERSATION_COLUMNS} FROM conversations AS c WHERE c.id = ? AND c.deletion_id IS NULL",  # noqa: S608
        (conversation_id,),
    )
    if row is None:
        raise NotInHistory(
            f"There is no conversation {conversation_id}.", hint="`edgeapp history list` shows them."
        )
    return conversation_of(row)


def page(
    database: Database, *, n_max: int = 50, after: Conversation | None = None
) -> tuple[Conversation, ...]:
    """Return up to `n_max` conversations that come after `after`: pinned ones first, then newest first."""
    if after is None:
        rows = database.rows(_FIRST_PAGE, (n_max,))
    else:
        rows = database.rows(_NEXT_PAGE, (after.is_pinned, after.updated_s, after.id, n_max))
    return tuple(map(conversation_of, rows))


def rename(database: Database, conversation_id: int, title: str) -> Conversation:
    """Give it a title, made one clean line; raise `NotInHistory`."""
    return _set(database, conversation_id, "title", title_of(title))


def pin(database: Database, conversation_id: int, *, is_pinned: bool = True) -> Conversation:
    """Keep it at the top of the list, or no longer; raise `NotInHistory`."""
    return _set(database, conversation_id, "pinned", int(is_pinned))


def set_model(database: Database, conversation_id: int, model: str) -> Conversation:
    """Say which model answers from now on; raise `NotInHistory`."""
    return _set(database, conversation_id, "model", clean_line(model))


def set_preset(database: Database, conversation_id: int, preset: str) -> Conversation:
    """Say which preset holds from now on; raise `NotInHistory`."""
    return _set(database, conversation_id, "preset", clean_line(preset))


def set_settings(database: Database, conversation_id: int, settings: Mapping[str, Any]) -> Conversation:
    """Replace the settings by anything that JSON can say; raise `NotInHistory`."""
    return _set(database, conversation_id, "settings", _json(settings))


def _set(database: Database, conversation_id: int, column: str, value: str | int) -> Conversation:
    with database.writing():
        database.execute(
            f"UPDATE conversations SET {column} = ? WHERE id = ? AND deletion_id IS NULL",  # noqa: S608 - our names
            (value, conversation_id),
        )
        return get(database, conversation_id)


def _json(settings: Mapping[str, Any]) -> str:
    return msgspec.json.encode(dict(settings)).decode()

"""Find words in titles and messages. A word finds all words that begin with it; accents do not matter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.history.records import CONVERSATION_COLUMNS, Fragment, Hit, conversation_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeapp.history.database import Database

_BEGIN, _END = "\x02", "\x03"  # clean text has no control characters
_EXCERPT_TOKENS = 16
_MAX_WORDS = 32

# The newest first: FTS5 walks its rows backwards, so a word that stands everywhere is found at once.
_IN_TITLES = f"""SELECT NULL, highlight(title_search, 0, ?, ?), {CONVERSATION_COLUMNS}
    FROM title_search JOIN conversations AS c ON c.id = title_search.rowid
    WHERE title_search MATCH ? AND c.deletion_id IS NULL
    ORDER BY title_search.rowid DESC LIMIT ?"""  # noqa: S608 - constants
_IN_MESSAGES = f"""SELECT m.id, snippet(message_search, 0, ?, ?, '…', {_EXCERPT_TOKENS}),
    {CONVERSATION_COLUMNS}
    FROM message_search JOIN messages AS m ON m.id = message_search.rowid
    JOIN conversations AS c ON c.id = m.conversation_id
    WHERE message_search MATCH ? AND m.deletion_id IS NULL AND c.deletion_id IS NULL
    ORDER BY message_search.rowid DESC LIMIT ?"""  # noqa: S608 - constants


def search(database: Database, text: str, *, n_max: int = 50) -> tuple[Hit, ...]:
    """Return where all words of `text` stand: titles first, then messages of all branches, newest first."""
    wanted = _query(text)
    if not wanted:
        return ()
    with database.reading():
        rows = database.rows(_IN_TITLES, (_BEGIN, _END, wanted, n_max))
        rows += database.rows(_IN_MESSAGES, (_BEGIN, _END, wanted, n_max - len(rows)))
    return tuple(
        Hit(conversation=conversation_of(row), message_id=message_id, excerpt=tuple(_fragments(excerpt)))
        for message_id, excerpt, *rest in rows
        for row in (tuple(rest),)
    )


def _query(text: str) -> str:
    """Return an FTS5 expression in which nothing that the user typed is an operator."""
    words = [word.replace('"', "").replace("\0", "") for word in text.split()]
    return " ".join(f'"{word}"*' for word in words[:_MAX_WORDS] if any(map(str.isalnum, word)))


def _fragments(excerpt: str) -> Iterator[Fragment]:
    before, *marked = excerpt.split(_BEGIN)
    if before:
        yield Fragment(text=before, is_match=False)
    for part in marked:
        match, _, after = part.partition(_END)
        yield Fragment(text=match, is_match=True)
        if after:
            yield Fragment(text=after, is_match=False)

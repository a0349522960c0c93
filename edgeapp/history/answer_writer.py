"""Keep an answer while it is being written, at most once a second.

It stands in the history as stopped until it is finished, so after a `kill -9` nothing has to be put right.
Trouble with the disk does not end the answer: it is tried again a second later, and `finish` tells of it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from edgeapp.errors import HistoryError
from edgeapp.history import tree
from edgeapp.protocol import Message

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeapp.history.database import Database
    from edgeapp.history.records import MessageState, Stats, StoredMessage
    from edgeapp.protocol import Channel, ToolCall

PERIOD_S = 1.0


class AnswerWriter:
    """Writes one message, which must exist. Make it with `begin_answer` or `begin_alternative`."""

    def __init__(
        self, database: Database, message_id: int, *, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self.message_id = message_id
        self.problem: HistoryError | None = None
        """Why the last attempt to write failed; None when all is well."""
        self._database = database
        self._monotonic_s = monotonic_s
        self._written_s = monotonic_s()
        self._pieces: dict[Channel, list[str]] = {"answer": [], "reasoning": []}
        self._is_dirty = False

    def add(self, text: str, *, channel: Channel = "answer") -> None:
        """Append `text`, cleaned, and write if the last time is a second ago."""
        self._pieces[channel].append(text)
        self._is_dirty = True
        self.tick()

    def tick(self) -> None:
        """Write what is new if the last time is a second ago.

        To be called every second as well, because the model may pause after a burst.
        """
        if not self._is_dirty or self._monotonic_s() - self._written_s < PERIOD_S:
            return
        try:
            self._write("stopped", stats=None, tool_calls=())
            self.problem = None
        except HistoryError as problem:
            self.problem = problem
        self._written_s = self._monotonic_s()

    def finish(
        self, state: MessageState, *, stats: Stats | None = None, tool_calls: tuple[ToolCall, ...] = ()
    ) -> StoredMessage:
        """Write the rest and how the answer ended; raise `HistoryError` when that cannot be kept.

        It may then be called again. `NotInHistory` means that the answer was deleted meanwhile.
        """
        self._write(state, stats=stats, tool_calls=tool_calls)
        return tree.message(self._database, self.message_id)

    def _write(self, state: MessageState, *, stats: Stats | None, tool_calls: tuple[ToolCall, ...]) -> None:
        text, reasoning = self._text("answer"), self._text("reasoning")
        tree.rewrite(
            self._database,
            self.message_id,
            Message(role="assistant", content=text, reasoning=reasoning, tool_calls=tool_calls),
            state=state,
            stats=stats,
        )
        self._is_dirty = False

    def _text(self, channel: Channel) -> str:
        """Return all text of `channel`, joined once for each time it is written."""
        pieces = self._pieces[channel]
        pieces[:] = ["".join(pieces)]
        return pieces[0]


def begin_answer(
    database: Database, conversation_id: int, *, monotonic_s: Callable[[], float] = time.monotonic
) -> AnswerWriter:
    """Add an empty answer after the active leaf and write it; raise `HistoryError`."""
    added = tree.append(database, conversation_id, _EMPTY, state="stopped")
    return AnswerWriter(database, added.id, monotonic_s=monotonic_s)


def begin_alternative(
    database: Database, answer_id: int, *, monotonic_s: Callable[[], float] = time.monotonic
) -> AnswerWriter:
    """Add an empty answer beside `answer_id` (regenerate) and write it; raise `HistoryError`."""
    added = tree.add_alternative(database, answer_id, _EMPTY, state="stopped")
    return AnswerWriter(database, added.id, monotonic_s=monotonic_s)


_EMPTY = Message(role="assistant", content="")

"""Write a chat into the history while it runs. Trouble with the disk never ends an answer."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgeapp.errors import HistoryError
from edgeapp.history import Stats, conversations, deletions, tree
from edgeapp.history.answer_writer import begin_answer
from edgeapp.protocol import Delta, Done, Failed, Message
from edgeapp.session.turns import is_taken_back, status_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edgeapp.history import AnswerWriter, Database, MessageState
    from edgeapp.runtime.client import GenerationEvent


class HistoryKeeper:
    """One conversation after the other. `on_problem` gets a sentence when something could not be kept."""

    def __init__(self, database: Database, *, model: str, on_problem: Callable[[str], None]) -> None:
        self._database = database
        self._model = model
        self._on_problem = on_problem
        self._conversation_id: int | None = None
        self._asked_id = 0
        self._writer: AnswerWriter | None = None
        self._has_text = False
        self._said = ""
        """The last problem that was told, so that it is told once."""

    def begin(self, text: str) -> None:
        """The user has sent `text`; its answer begins."""
        self._writer, self._has_text = None, False
        with self._telling():
            if self._conversation_id is None:
                self._conversation_id = conversations.new(self._database, model=self._model).id
            asked = tree.append(self._database, self._conversation_id, Message(role="user", content=text))
            self._asked_id = asked.id
            self._writer = begin_answer(self._database, self._conversation_id)

    def observe(self, event: GenerationEvent) -> None:
        """Take in an event of the answer."""
        writer = self._writer
        if writer is None:
            return
        match event:
            case Delta(text=text, channel=channel):
                writer.add(text, channel=channel)
                self._has_text = self._has_text or channel == "answer"
            case Done() | Failed():
                self._writer = None
                with self._telling():
                    self._end(writer, event)
            case _:
                writer.tick()

    def reset(self) -> None:
        """What comes next is another conversation."""
        self._conversation_id = self._writer = None

    def close(self) -> None:
        self._database.close()

    def _end(self, writer: AnswerWriter, event: Done | Failed) -> None:
        """Keep what has text. What was taken back is asked again, or not at all."""
        if self._has_text:
            stats = Stats(usage=event.usage, timings=event.timings) if isinstance(event, Done) else None
            writer.finish(_state(event), stats=stats)
            self._said = ""
            return
        taken_back = self._asked_id if is_taken_back(event) else writer.message_id
        deletions.delete_message(self._database, taken_back)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except HistoryError as problem:
            if problem.message != self._said:
                self._said = problem.message
                self._on_problem(f"This chat is not being kept: {problem.message}")


def _state(event: Done | Failed) -> MessageState:
    return status_of(event.finish_reason) if isinstance(event, Done) else "failed"

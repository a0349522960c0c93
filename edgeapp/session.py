"""A conversation: turns so far + an engine → the stream of events that every front end shows.

Knows no terminal, no HTTP and no file. The user's message and whatever arrived of the answer stay in
`turns`, however the answer ended.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, assert_never

from edgeapp.errors import ContextOverflow
from edgeapp.protocol import (
    Delta,
    Done,
    Failed,
    FinishReason,
    Generate,
    Message,
    Progress,
    Role,
    Sampling,
    ToolCallDelta,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from edgeapp.runtime.client import EngineClient, Generation, GenerationEvent

TurnStatus = Literal["complete", "stopped", "length", "failed"]
_STATUS: dict[FinishReason, TurnStatus] = {
    "stop": "complete",
    "tool_calls": "complete",
    "length": "length",
    "cancelled": "stopped",
}


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One message, and how its answer ended; a user's message is "failed" when it is not to be sent again."""

    role: Role
    text: str
    reasoning: str = ""
    """What an assistant thought before it answered."""
    status: TurnStatus = "complete"


@dataclass(frozen=True, kw_only=True)
class ChatSettings:
    """What stays the same from message to message."""

    system: str = ""
    sampling: Sampling
    max_tokens: int = 0
    stop: tuple[str, ...] = ()


class ChatSession:
    """One chat with one engine; one answer at a time."""

    def __init__(self, client: EngineClient, settings: ChatSettings) -> None:
        self._client = client
        self._settings = settings
        self._generation: Generation | None = None
        self.turns: list[Turn] = []

    @property
    def busy(self) -> bool:
        return self._generation is not None

    def reset(self) -> None:
        """Forget the conversation. A running answer must have been stopped before."""
        self.turns.clear()

    def stop(self) -> None:
        """Ask the running answer, if any, to end; its stream finishes with `Done`."""
        if self._generation is not None:
            self._generation.cancel()

    async def send(self, text: str) -> AsyncIterator[GenerationEvent]:
        """Append the user's message and stream the answer; the last event is `Done` or `Failed`."""
        self.turns.append(Turn(role="user", text=text))
        request = Generate(
            messages=self._messages(),
            sampling=self._settings.sampling,
            max_tokens=self._settings.max_tokens,
            stop=self._settings.stop,
        )
        answer = Turn(role="assistant", text="", status="failed")
        self.turns.append(answer)
        self._generation = self._client.generate(request)
        try:
            async for event in self._generation:
                answer = _absorb(answer, event)
                self.turns[-1] = answer
                if not answer.text and _is_taken_back(event):
                    self.turns[-2] = replace(self.turns[-2], status="failed")
                yield event
        finally:
            self._generation = None
            if not answer.text:
                self.turns.pop()

    def _messages(self) -> tuple[Message, ...]:
        system = [Message(role="system", content=self._settings.system)] if self._settings.system else []
        return (*system, *_alternating(self.turns))


def _is_taken_back(event: GenerationEvent) -> bool:
    """Tell whether a message that got no text for an answer was stopped by the user or was too long."""
    match event:
        case Done(finish_reason="cancelled") | Failed(code=ContextOverflow.code):
            return True
        case _:
            return False


def _alternating(turns: Sequence[Turn]) -> Iterator[Message]:
    """Yield the messages to send, user and assistant in turn, as many chat templates demand.

    Messages that a crash left without an answer are joined with the next one. What was stopped before the
    first word, or was too long, is left out: it would be answered after all, or make the next one too long.
    """
    sent = [turn for turn in turns if (turn.role, turn.status) != ("user", "failed")]
    for role, group in itertools.groupby(sent, key=lambda turn: turn.role):
        yield Message(role=role, content="\n\n".join(turn.text for turn in group))


def _absorb(answer: Turn, event: GenerationEvent) -> Turn:
    match event:
        case Progress() | ToolCallDelta():
            return answer
        case Delta(text=text, channel="reasoning"):
            return replace(answer, reasoning=answer.reasoning + text)
        case Delta(text=text):
            return replace(answer, text=answer.text + text)
        case Done(finish_reason=reason):
            return replace(answer, status=_STATUS[reason])
        case Failed():
            return replace(answer, status="failed")
    assert_never(event)

"""The turns of a conversation, and the messages that the model gets of them. Pure: knows no engine."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, assert_never

from edgeapp.errors import ContextOverflow
from edgeapp.protocol import Delta, Done, Failed, FinishReason, Message, Progress, Role, ToolCallDelta

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgeapp.runtime.client import GenerationEvent

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
    is_sent: bool = True
    """False: it stays in the conversation, but the model no longer gets it."""


def status_of(reason: FinishReason) -> TurnStatus:
    return _STATUS[reason]


def is_taken_back(event: GenerationEvent) -> bool:
    """Tell whether a message that got no text for an answer was stopped by the user or was too long."""
    match event:
        case Done(finish_reason="cancelled") | Failed(code=ContextOverflow.code):
            return True
        case _:
            return False


def alternating(turns: Sequence[Turn]) -> Iterator[Message]:
    """Yield the messages to send, user and assistant in turn, as many chat templates demand.

    Messages that a crash left without an answer are joined with the next one. What was stopped before the
    first word, or was too long, is left out: it would be answered after all, or make the next one too long.
    """
    sent = [turn for turn in turns if (turn.role, turn.status) != ("user", "failed")]
    for role, group in itertools.groupby(sent, key=lambda turn: turn.role):
        yield Message(role=role, content="\n\n".join(turn.text for turn in group))


def absorb(answer: Turn, event: GenerationEvent) -> Turn:
    """Return the answer after `event`."""
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

"""What the history knows of a conversation and of a message. Frozen values: know no database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from edgeapp.cleantext import clean_line
from edgeapp.protocol import Message, Role, Timings, ToolCall, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable

MessageState = Literal["complete", "stopped", "length", "failed"]
"""How a message ended, in the words of `edgeapp.session.TurnStatus`."""

MAX_TITLE_CHARS = 80


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer cost."""

    usage: Usage
    timings: Timings


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """Times are seconds since 1970, UTC."""

    id: int
    title: str
    """One clean line; empty until something is said."""
    model: str
    preset: str
    settings: dict[str, Any]
    """Whatever the front end needs to continue: sampling, system prompt, summary, …"""
    created_s: float
    updated_s: float
    """When a message was last added or changed; renaming and pinning do not count."""
    is_pinned: bool


class StoredMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A node of a conversation's tree."""

    id: int
    conversation_id: int
    parent_id: int | None
    """What it answers or follows; None begins the conversation."""
    message: Message
    state: MessageState
    is_sent: bool
    """False: it is shown, but the model no longer gets it."""
    stats: Stats | None
    created_s: float
    n_alternatives: int
    """Messages with the same parent, this one included."""
    alternative: int
    """Its place among them, from 1, oldest first."""


class Fragment(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a text, and whether it is what was searched for."""

    text: str
    is_match: bool


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """Where a search found something: in a message, or in the title when `message_id` is None."""

    conversation: Conversation
    message_id: int | None
    excerpt: tuple[Fragment, ...]


def title_of(text: str) -> str:
    """Return `text` as a title: one clean line."""
    return clean_line(text, max_chars=MAX_TITLE_CHARS)


def sent_messages(path: Iterable[StoredMessage]) -> tuple[Message, ...]:
    """Return what of `path` the model gets."""
    return tuple(stored.message for stored in path if stored.is_sent)


def tool_calls_json(calls: tuple[ToolCall, ...]) -> str:
    """Return `calls` as the database keeps them; nothing for none."""
    return msgspec.json.encode(calls).decode() if calls else ""


_CALLS: msgspec.json.Decoder[tuple[ToolCall, ...]] = msgspec.json.Decoder(tuple[ToolCall, ...])
_STATS = msgspec.json.Decoder(Stats)
_SETTINGS: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, Any])

CONVERSATION_COLUMNS = "c.id, c.title, c.model, c.preset, c.settings, c.created_s, c.updated_s, c.pinned"
MESSAGE_COLUMNS = """m.id, m.conversation_id, m.parent_id, m.role, m.text, m.reasoning, m.tool_calls,
    m.tool_call_id, m.name, m.state, m.is_sent, m.stats, m.created_s,
    (SELECT count(*) FROM messages AS s WHERE s.conversation_id = m.conversation_id
        AND s.parent_id IS m.parent_id AND s.deletion_id IS NULL),
    (SELECT count(*) FROM messages AS s WHERE s.conversation_id = m.conversation_id
        AND s.parent_id IS m.parent_id AND s.deletion_id IS NULL AND s.id <= m.id)"""


def conversation_of(row: tuple[Any, ...]) -> Conversation:
    """Read a row of `CONVERSATION_COLUMNS`; raise `msgspec.MsgspecError` for settings that are no JSON."""
    identity, title, model, preset, settings, created_s, updated_s, pinned = row
    return Conversation(
        id=identity,
        title=title,
        model=model,
        preset=preset,
        settings=_SETTINGS.decode(settings),
        created_s=created_s,
        updated_s=updated_s,
        is_pinned=bool(pinned),
    )


def message_of(row: tuple[Any, ...]) -> StoredMessage:
    """Read a row of `MESSAGE_COLUMNS`; raise `msgspec.MsgspecError` for JSON that is damaged."""
    (identity, conversation_id, parent_id, role, text, reasoning, calls, call_id, name, *rest) = row
    state, is_sent, stats, created_s, n_alternatives, alternative = rest
    return StoredMessage(
        id=identity,
        conversation_id=conversation_id,
        parent_id=parent_id,
        message=_message(role, text, reasoning, calls, call_id, name),
        state=state,
        is_sent=bool(is_sent),
        stats=_STATS.decode(stats) if stats else None,
        created_s=created_s,
        n_alternatives=n_alternatives,
        alternative=alternative,
    )


def _message(  # noqa: PLR0917 - the columns in their order
    role: Role, text: str, reasoning: str, calls: str, call_id: str, name: str
) -> Message:
    return Message(
        role=role,
        content=text,
        reasoning=reasoning,
        tool_calls=_CALLS.decode(calls) if calls else (),
        tool_call_id=call_id,
        name=name,
    )

"""Conversations as JSON, out and in again with all branches, and as Markdown to read.

The JSON is one object: `format`, `version` and `conversations`, each with its `messages`, parents first.
Deleted messages do not leave. What comes in is checked and cleaned, because anybody may have written it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edgeapp.cleantext import clean, clean_line
from edgeapp.errors import InvalidExport
from edgeapp.history import conversations, tree
from edgeapp.history.records import MESSAGE_COLUMNS, MessageState, Stats, message_of
from edgeapp.protocol import Message  # noqa: TC001 - msgspec reads the annotation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from edgeapp.history.database import Database
    from edgeapp.history.records import StoredMessage

_LAST_S = 253402300799  # the end of the year 9999
_Seconds = Annotated[float, Meta(ge=0, le=_LAST_S)]
_Line = Annotated[str, Meta(max_length=1000)]


class ExportedMessage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`id` and `parent` count within the conversation; `active` messages are on the active path."""

    id: int
    parent: int | None
    active: bool
    message: Message
    state: MessageState
    sent: bool = True
    stats: Stats | None = None
    created_s: _Seconds


class ExportedConversation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    title: _Line
    model: _Line = ""
    preset: _Line = ""
    settings: dict[str, Any] = {}
    pinned: bool = False
    created_s: _Seconds
    updated_s: _Seconds
    messages: tuple[ExportedMessage, ...]


class Export(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: Literal["edgeapp-history"] = "edgeapp-history"
    version: Literal[1] = 1
    conversations: tuple[ExportedConversation, ...]


_decoder = msgspec.json.Decoder(Export)


def export_json(database: Database, conversation_ids: Iterable[int]) -> bytes:
    """Return the conversations as JSON that `import_json` reads; raise `NotInHistory`."""
    with database.reading():
        export = Export(conversations=tuple(_exported(database, each) for each in conversation_ids))
    return msgspec.json.format(msgspec.json.encode(export), indent=1) + b"\n"


def import_json(database: Database, data: bytes) -> tuple[int, ...]:
    """Add every conversation of an export as a new one, all or none; return their ids.

    Raise `InvalidExport` with one sentence.
    """
    try:
        export = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
        raise InvalidExport(
            f"This is no export of edgeapp's history: {clean_line(str(problem))}.",
            hint="`edgeapp history export --format json` writes one.",
        ) from problem
    for conversation in export.conversations:
        _check(conversation)
    with database.writing():
        return tuple(_imported(database, conversation) for conversation in export.conversations)


def export_markdown(database: Database, conversation_id: int) -> str:
    """Return the active path as Markdown; raise `NotInHistory`."""
    with database.reading():
        conversation = conversations.get(database, conversation_id)
        path = tree.path(database, conversation_id)
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(conversation.created_s))
    facts = " · ".join(fact for fact in (conversation.model, conversation.preset, when) if fact)
    parts = [f"# {conversation.title or 'Conversation'}", facts, *(_section(stored) for stored in path)]
    return "\n\n".join(parts) + "\n"


_SPEAKERS = {"system": "System", "user": "You", "assistant": "Answer", "tool": "Tool"}
_ENDS = {
    "complete": "",
    "stopped": "*(stopped)*",
    "length": "*(cut at the length limit)*",
    "failed": "*(failed)*",
}


def _section(stored: StoredMessage) -> str:
    said = stored.message
    thoughts = f"<details><summary>Thoughts</summary>\n\n{said.reasoning.strip()}\n\n</details>"
    calls = [f"Calls `{call.name}` with `{call.arguments}`" for call in said.tool_calls]
    parts = [
        f"## {_SPEAKERS[said.role]}",
        thoughts if said.reasoning.strip() else "",
        said.content.strip(),
        *calls,
        _ENDS[stored.state],
    ]
    return "\n\n".join(part for part in parts if part)


def _exported(database: Database, conversation_id: int) -> ExportedConversation:
    conversation = conversations.get(database, conversation_id)
    active = {stored.id for stored in tree.path(database, conversation_id)}
    rows = database.rows(
        f"""SELECT {MESSAGE_COLUMNS} FROM messages AS m
            WHERE m.conversation_id = ? AND m.deletion_id IS NULL ORDER BY m.id""",  # noqa: S608 - constants
        (conversation_id,),
    )
    return ExportedConversation(
        title=conversation.title,
        model=conversation.model,
        preset=conversation.preset,
        settings=conversation.settings,
        pinned=conversation.is_pinned,
        created_s=conversation.created_s,
        updated_s=conversation.updated_s,
        messages=tuple(_exported_messages(map(message_of, rows), active)),
    )


def _exported_messages(stored: Iterable[StoredMessage], active: set[int]) -> Iterator[ExportedMessage]:
    numbers: dict[int, int] = {}
    for each in stored:
        numbers[each.id] = len(numbers) + 1
        yield ExportedMessage(
            id=numbers[each.id],
            parent=None if each.parent_id is None else numbers[each.parent_id],
            active=each.id in active,
            message=each.message,
            state=each.state,
            sent=each.is_sent,
            stats=each.stats,
            created_s=each.created_s,
        )


def _check(conversation: ExportedConversation) -> None:
    """Raise `InvalidExport` unless the messages are a tree, parents first, with one active path."""
    seen: dict[int, ExportedMessage] = {}
    active_children: set[int | None] = set()
    for each in conversation.messages:
        if each.id in seen:
            raise InvalidExport(f"{_place(each)} comes twice.")
        if each.parent is not None and each.parent not in seen:
            raise InvalidExport(f"{_place(each)} comes before its parent {each.parent}.")
        if each.active and each.parent is not None and not seen[each.parent].active:
            raise InvalidExport(f"{_place(each)} is active and its parent is not.")
        if each.active and each.parent in active_children:
            raise InvalidExport(f"{_place(each)} is the second active one after the same parent.")
        if each.active:
            active_children.add(each.parent)
        seen[each.id] = each


def _place(each: ExportedMessage) -> str:
    return f"This export cannot be read: message {each.id}"


def _imported(database: Database, exported: ExportedConversation) -> int:
    new = conversations.new(
        database,
        title=exported.title,
        model=exported.model,
        preset=exported.preset,
        settings=exported.settings,
    )
    conversations.pin(database, new.id, is_pinned=exported.pinned)
    ids: dict[int | None, int | None] = {None: None}
    for each in exported.messages:
        ids[each.id] = _add(database, new.id, ids[each.parent], each)
    for each in exported.messages:
        if each.active:
            tree.set_next(database, new.id, ids[each.parent], ids[each.id])
    database.execute(
        "UPDATE conversations SET created_s = ?, updated_s = ? WHERE id = ?",
        (exported.created_s, exported.updated_s, new.id),
    )
    return new.id


def _add(database: Database, conversation_id: int, parent_id: int | None, each: ExportedMessage) -> int:
    added = tree.insert(
        database, conversation_id, parent_id, _cleaned(each.message), state=each.state, stats=each.stats
    )
    database.execute(
        "UPDATE messages SET created_s = ?, is_sent = ? WHERE id = ?", (each.created_s, each.sent, added.id)
    )
    return added.id


def _cleaned(said: Message) -> Message:
    calls = (
        msgspec.structs.replace(
            call, id=clean_line(call.id), name=clean_line(call.name), arguments=clean(call.arguments)
        )
        for call in said.tool_calls
    )
    return msgspec.structs.replace(
        said,
        content=clean(said.content),
        reasoning=clean(said.reasoning),
        tool_calls=tuple(calls),
        tool_call_id=clean_line(said.tool_call_id),
        name=clean_line(said.name),
    )

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from edgeapp.errors import InvalidExport, NotInHistory
from edgeapp.history import conversations, tree
from edgeapp.history.transfer import export_json, export_markdown, import_json
from edgeapp.protocol import Message, ToolCall

if TYPE_CHECKING:
    from edgeapp.history import Database


def a_talk(database: Database) -> int:
    conversation = conversations.new(database, title="Gears", model="moe", settings={"temp": 0.5})
    tree.append(database, conversation.id, Message(role="user", content="Why **warm**?"))
    answer = Message(role="assistant", content="Oil.\n\n```\nx\n```", reasoning="Friction or oil.")
    first = tree.append(database, conversation.id, answer)
    tree.add_alternative(database, first.id, Message(role="assistant", content="Frict"), state="stopped")
    return conversation.id


def broken(change: dict[str, Any], *, message: dict[str, Any] | None = None) -> bytes:
    first = {"id": 1, "parent": None, "active": True, "message": {"role": "user", "content": "a"},
             "state": "complete", "created_s": 1.0}  # fmt: skip
    second = {**first, "id": 2, "parent": 1, **(message or {})}
    conversation = {"title": "t", "created_s": 1, "updated_s": 1, "messages": [first, second], **change}
    return json.dumps({"format": "edgeapp-history", "version": 1, "conversations": [conversation]}).encode()


def test_json_brings_everything_back_with_all_branches(database: Database) -> None:
    identity = a_talk(database)
    conversations.pin(database, identity)
    (copy,) = import_json(database, export_json(database, [identity]))
    original, copied = conversations.get(database, identity), conversations.get(database, copy)
    assert (copied.title, copied.model, copied.settings, copied.is_pinned, copied.updated_s) == (
        original.title, original.model, original.settings, True, original.updated_s,
    )  # fmt: skip
    question, answer = tree.path(database, copy)
    assert (answer.message.content, answer.state, answer.n_alternatives) == ("Frict", "stopped", 2)
    oil, _ = tree.alternatives(database, answer.id)
    assert oil.message.reasoning == "Friction or oil."
    assert question.created_s == tree.path(database, identity)[0].created_s


def test_markdown_has_what_is_shown(database: Database) -> None:
    identity = a_talk(database)
    text = export_markdown(database, identity)
    assert text.startswith("# Gears\n\nmoe · ")
    assert "## You\n\nWhy **warm**?\n\n## Answer\n\nFrict\n\n*(stopped)*\n" in text
    assert "Oil" not in text
    tree.switch(database, tree.alternatives(database, tree.path(database, identity)[1].id)[0].id)
    text = export_markdown(database, identity)
    assert text.endswith("Friction or oil.\n\n</details>\n\nOil.\n\n```\nx\n```\n")


def test_markdown_names_tool_calls(database: Database) -> None:
    conversation = conversations.new(database)
    calls = (ToolCall(id="1", name="look", arguments='{"at": 1}'),)
    tree.append(database, conversation.id, Message(role="assistant", content="", tool_calls=calls))
    assert 'Calls `look` with `{"at": 1}`' in export_markdown(database, conversation.id)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "no export"),
        (b"[]", "no export"),
        (b'{"conversations": [' + 100_000 * b"[", "no export"),
        (b"\xff\xfe", "no export"),
        (broken({}).replace(b'"version": 1', b'"version": 2'), "version"),
        (broken({"colour": "red"}), "colour"),
        (broken({"title": 5}), "title"),
        (broken({"updated_s": 1e300}), "updated_s"),
        (broken({"settings": []}), "settings"),
        (broken({}, message={"id": 1}), "message 1 comes twice"),
        (broken({}, message={"parent": 7}), "message 2 comes before its parent 7"),
        (broken({}, message={"parent": 2}), "message 2 comes before its parent 2"),
        (broken({}, message={"parent": None}), "second active one"),
        (broken({}, message={"state": "running"}), "state"),
        (broken({}, message={"message": {"role": "god", "content": ""}}), "role"),
    ],
)
def test_what_is_no_export_is_one_sentence_and_adds_nothing(
    database: Database, data: bytes, sentence: str
) -> None:
    with pytest.raises(InvalidExport, match=sentence) as caught:
        import_json(database, data)
    assert "\n" not in caught.value.message
    assert conversations.page(database) == ()


def test_what_comes_in_is_cleaned(database: Database) -> None:
    data = broken(
        {"title": "a\u001b[2J\nb", "model": "m\u202e"},
        message={"message": {"role": "user", "content": "x\u001b]52;c;AAAA\u0007\ny", "reasoning": "\u009b"}},
    )
    (identity,) = import_json(database, data)
    conversation = conversations.get(database, identity)
    assert (conversation.title, conversation.model) == ("a[2J b", "m")
    said = tree.path(database, identity)[1].message
    assert (said.content, said.reasoning) == ("x]52;c;AAAA\ny", "")


def test_a_conversation_that_is_not_there_cannot_be_exported(database: Database) -> None:
    with pytest.raises(NotInHistory):
        export_json(database, [5])
    with pytest.raises(NotInHistory):
        export_markdown(database, 5)

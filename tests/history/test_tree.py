from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgeapp.errors import NotInHistory
from edgeapp.history import Stats, conversations, tree
from edgeapp.history.records import sent_messages
from edgeapp.protocol import Message, Timings, ToolCall, Usage

if TYPE_CHECKING:
    from edgeapp.history import Database

_STATS = Stats(
    usage=Usage(prompt_tokens=5, completion_tokens=3, cached_tokens=2),
    timings=Timings(load_s=0.0, ttft_s=0.25, prompt_tps=20.0, decode_tps=10.0),
)


def user(text: str) -> Message:
    return Message(role="user", content=text)


def texts(database: Database, conversation_id: int) -> list[str]:
    return [stored.message.content for stored in tree.path(database, conversation_id)]


def test_a_message_comes_back_with_all_that_it_had(database: Database) -> None:
    said = Message(
        role="assistant",
        content="wörld\n",
        reasoning="hm",
        tool_calls=(ToolCall(id="1", name="look", arguments="{}"),),
    )
    conversation = conversations.new(database)
    tree.append(database, conversation.id, user("hello"))
    tree.append(database, conversation.id, said, state="length", stats=_STATS)
    first, second = tree.path(database, conversation.id)
    assert (first.parent_id, first.state, first.stats) == (None, "complete", None)
    assert (second.parent_id, second.message, second.state, second.stats) == (
        first.id,
        said,
        "length",
        _STATS,
    )


def test_an_edited_message_is_a_branch_beside_the_old_one(database: Database) -> None:
    conversation = conversations.new(database)
    first = tree.append(database, conversation.id, user("a"))
    tree.append(database, conversation.id, user("b"))
    edited = tree.edit(database, first.id, "A")
    assert texts(database, conversation.id) == ["A"]
    assert (edited.alternative, edited.n_alternatives) == (2, 2)
    assert [each.id for each in tree.alternatives(database, edited.id)] == [first.id, edited.id]


def test_switching_away_and_back_ends_where_it_was(database: Database) -> None:
    conversation = conversations.new(database)
    first = tree.append(database, conversation.id, user("a"))
    older = tree.append(database, conversation.id, user("b"))
    tree.edit(database, older.id, "B")
    tree.switch(database, older.id)
    other = tree.edit(database, first.id, "A")
    tree.switch(database, first.id)
    assert texts(database, conversation.id) == ["a", "b"]
    tree.switch(database, other.id)
    assert texts(database, conversation.id) == ["A"]


def test_an_alternative_of_a_message_on_another_branch_takes_the_path_there(database: Database) -> None:
    conversation = conversations.new(database)
    first = tree.append(database, conversation.id, user("a"))
    answer = tree.append(database, conversation.id, user("b"))
    tree.edit(database, first.id, "A")
    tree.add_alternative(database, answer.id, user("c"))
    assert texts(database, conversation.id) == ["a", "c"]


def test_a_branch_is_a_conversation_of_its_own(database: Database) -> None:
    conversation = conversations.new(database, title="t", model="m", preset="p", settings={"temp": 0.5})
    tree.append(database, conversation.id, user("a"))
    middle = tree.append(database, conversation.id, user("b"), stats=_STATS)
    tree.append(database, conversation.id, user("c"))
    tree.set_sent(database, [middle.id], is_sent=False)
    branched = tree.branch(database, middle.id)
    tree.append(database, branched.id, user("d"))
    assert texts(database, branched.id) == ["a", "b", "d"]
    assert texts(database, conversation.id) == ["a", "b", "c"]
    assert (branched.title, branched.model, branched.preset) == ("t (branch)", "m", "p")
    assert branched.settings == {"temp": 0.5}
    assert [(each.is_sent, each.stats) for each in tree.path(database, branched.id)] == [
        (True, None), (False, _STATS), (True, None),
    ]  # fmt: skip


def test_what_is_left_out_is_shown_and_not_sent(database: Database) -> None:
    conversation = conversations.new(database)
    first = tree.append(database, conversation.id, user("a"))
    tree.append(database, conversation.id, user("b"))
    tree.set_sent(database, [first.id], is_sent=False)
    path = tree.path(database, conversation.id)
    assert [each.message.content for each in path] == ["a", "b"]
    assert sent_messages(path) == (user("b"),)


def test_what_is_not_there_is_an_error_with_its_number(database: Database) -> None:
    for ask in (tree.path, tree.message, tree.alternatives, tree.switch, tree.branch):
        with pytest.raises(NotInHistory, match="7"):
            ask(database, 7)
    with pytest.raises(NotInHistory, match="7"):
        tree.append(database, 7, user("a"))
    with pytest.raises(NotInHistory, match="7"):
        tree.edit(database, 7, "a")

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgeapp.history import Fragment, conversations, deletions, tree
from edgeapp.history.search import search
from edgeapp.protocol import Message

if TYPE_CHECKING:
    from edgeapp.history import Database


def talk(database: Database, *texts: str, title: str = "title") -> int:
    conversation = conversations.new(database, title=title)
    for text in texts:
        tree.append(database, conversation.id, Message(role="user", content=text))
    return conversation.id


def test_words_are_found_by_their_beginning_whatever_case_and_accents(database: Database) -> None:
    talk(database, "Das Getriebe lief über Öl")
    for text in ("getr", "GETRIEBE", "uber ol", "öl  das"):
        assert len(search(database, text)) == 1, text
    assert search(database, "triebe") == ()
    assert search(database, "getriebe wasser") == ()


def test_a_hit_says_where_and_marks_what_was_found(database: Database) -> None:
    identity = talk(database, "first", "the gear box is warm", title="Gears")
    title, message = search(database, "gear")
    assert (title.message_id, title.excerpt) == (None, (Fragment(text="Gears", is_match=True),))
    assert message.conversation.id == identity
    assert message.message_id == tree.path(database, identity)[1].id
    assert message.excerpt == (
        Fragment(text="the ", is_match=False),
        Fragment(text="gear", is_match=True),
        Fragment(text=" box is warm", is_match=False),
    )


def test_the_newest_is_first_and_no_more_than_asked_for(database: Database) -> None:
    ids = [talk(database, "gear", title=f"gear {number}") for number in range(3)]
    found = search(database, "gear", n_max=4)
    assert [hit.conversation.id for hit in found] == [*ids[::-1], ids[2]]
    assert [hit.message_id is None for hit in found] == [True, True, True, False]


def test_what_was_edited_away_is_found_and_what_was_deleted_is_not(database: Database) -> None:
    identity = talk(database, "apples", title="t")
    old = tree.path(database, identity)[0]
    tree.edit(database, old.id, "pears")
    assert len(search(database, "apples")) == 1
    deletions.delete_message(database, old.id)
    assert search(database, "apples") == ()
    deletions.undo(database)
    assert len(search(database, "apples")) == 1
    deletions.delete_conversation(database, identity)
    assert search(database, "apples") == search(database, "t") == ()


def test_a_renamed_conversation_is_found_by_its_new_title_only(database: Database) -> None:
    identity = talk(database, title="old")
    conversations.rename(database, identity, "new")
    assert (len(search(database, "new")), search(database, "old")) == (1, ())


@pytest.mark.parametrize(
    "text",
    ["", "  ", '"', "* -", "a OR", "NEAR(", "title:x", "a AND NOT b", 'say "hi', "\0", "x\0y", 5000 * "a "],
)
def test_nothing_that_is_typed_is_an_operator_or_an_error(database: Database, text: str) -> None:
    talk(database, "something else")
    assert search(database, text) == ()

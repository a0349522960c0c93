from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgeapp.errors import NotInHistory
from edgeapp.history import conversations, open_history, tree
from edgeapp.protocol import Message

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edgeapp.history import Conversation, Database


@pytest.fixture
def database(file: Path) -> Iterator[Database]:
    """A history in which every look at the clock is a second later."""
    seconds = iter(range(1_000_000))
    with open_history(file, clock_s=lambda: float(next(seconds))).database as database:
        yield database


def pages(database: Database, n_max: int) -> Iterator[Conversation]:
    last = None
    while page := conversations.page(database, n_max=n_max, after=last):
        yield from page
        last = page[-1]


def test_pages_have_each_once_pinned_first_then_the_last_changed(database: Database) -> None:
    ids = [conversations.new(database, title=f"{number}").id for number in range(7)]
    conversations.pin(database, ids[2])
    tree.append(database, ids[0], Message(role="user", content="changed"))
    conversations.rename(database, ids[1], "renaming is no change")
    expected = [ids[2], ids[0], ids[6], ids[5], ids[4], ids[3], ids[1]]
    assert [each.id for each in pages(database, 2)] == expected
    conversations.pin(database, ids[2], is_pinned=False)
    assert [each.id for each in pages(database, 3)] == [ids[0], *reversed(ids[1:])]


def test_conversations_of_the_same_moment_are_all_listed(file: Path) -> None:
    with open_history(file, clock_s=lambda: 5.0).database as database:
        ids = [conversations.new(database).id for _ in range(5)]
        assert [each.id for each in pages(database, 2)] == ids[::-1]


def test_listing_reads_an_index_and_never_sorts(database: Database) -> None:
    for query, values in (
        (conversations._FIRST_PAGE, (50,)),
        (conversations._NEXT_PAGE, (0, 5.0, 5, 50)),
    ):
        (step,) = [row[3] for row in database.rows(f"EXPLAIN QUERY PLAN {query}", values)]
        assert "INDEX conversations_as_listed" in step
    assert "(pinned" in step, "the second page is looked up, not counted off"


def test_a_path_is_found_by_index(database: Database) -> None:
    steps = [row[3] for row in database.rows(f"EXPLAIN QUERY PLAN {tree._PATH_MESSAGES}", (1,))]
    scans = [step for step in steps if step.startswith("SCAN") and step != "SCAN path"]
    assert [step for step in scans if "CONSTANT" not in step] == []
    assert (
        len([step for step in steps if "messages_by_parent (conversation_id=? AND parent_id=?" in step]) == 2
    )


def test_the_title_is_the_beginning_of_the_first_question_on_one_clean_line(database: Database) -> None:
    conversation = conversations.new(database)
    tree.append(database, conversation.id, Message(role="system", content="be brief"))
    tree.append(
        database, conversation.id, Message(role="user", content="What \x1b[31mis\n this? " + 99 * "x")
    )
    tree.append(database, conversation.id, Message(role="user", content="and that?"))
    title = conversations.get(database, conversation.id).title
    assert title.startswith("What [31mis this? xxx")
    assert (len(title), title[-1]) == (80, "…")
    assert conversations.rename(database, conversation.id, " a\nb ").title == "a b"


def test_model_preset_and_settings_can_change(database: Database) -> None:
    conversation = conversations.new(database, model="m", settings={"temp": 0.5})
    conversations.set_model(database, conversation.id, "n")
    conversations.set_preset(database, conversation.id, "p")
    changed = conversations.set_settings(database, conversation.id, {"stop": ["a", "ß"]})
    assert (changed.model, changed.preset, changed.settings) == ("n", "p", {"stop": ["a", "ß"]})


def test_what_is_not_there_cannot_be_changed(database: Database) -> None:
    with pytest.raises(NotInHistory, match="no conversation 3"):
        conversations.rename(database, 3, "x")
    with pytest.raises(NotInHistory):
        conversations.pin(database, 3)

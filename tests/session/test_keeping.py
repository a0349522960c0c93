from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgeapp.errors import ContextOverflow
from edgeapp.history import conversations, open_history, tree
from edgeapp.protocol import Delta, Done, Failed, FinishReason, Timings, Usage
from edgeapp.session.keeping import HistoryKeeper

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edgeapp.history import Database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_history(tmp_path / "history.db")
    yield opened.database
    opened.database.close()


@pytest.fixture
def problems() -> list[str]:
    return []


@pytest.fixture
def keeper(database: Database, problems: list[str]) -> HistoryKeeper:
    return HistoryKeeper(database, model="tiny", on_problem=problems.append)


def done(reason: FinishReason = "stop") -> Done:
    return Done(
        finish_reason=reason,
        usage=Usage(prompt_tokens=3, completion_tokens=2, cached_tokens=0),
        timings=Timings(load_s=0, ttft_s=0, prompt_tps=0, decode_tps=7.5),
        n_ctx=64,
        n_ctx_used=5,
    )


def delta(text: str, *, thought: bool = False) -> Delta:
    return Delta(text=text, channel="reasoning" if thought else "answer", n_tokens=1)


def kept(database: Database) -> list[list[tuple[str, str, str]]]:
    """Return role, text and state of every message of every conversation, the newest first."""
    return [
        [(one.message.role, one.message.content, one.state) for one in tree.path(database, found.id)]
        for found in conversations.page(database)
    ]


def test_a_conversation_is_kept_with_thoughts_and_costs(keeper: HistoryKeeper, database: Database) -> None:
    keeper.begin("What is a bolt?")
    for event in (delta("hm", thought=True), delta("A "), delta("screw."), done()):
        keeper.observe(event)
    keeper.begin("And a nut?")
    keeper.observe(delta("Its"))
    keeper.observe(done("length"))
    assert kept(database) == [
        [
            ("user", "What is a bolt?", "complete"),
            ("assistant", "A screw.", "complete"),
            ("user", "And a nut?", "complete"),
            ("assistant", "Its", "length"),
        ]
    ]
    (found,) = conversations.page(database)
    answer = tree.path(database, found.id)[1]
    assert (found.title, found.model) == ("What is a bolt?", "tiny")
    assert answer.message.reasoning == "hm"
    assert answer.stats is not None
    assert answer.stats.timings.decode_tps == 7.5


def test_after_a_reset_another_conversation_begins(keeper: HistoryKeeper, database: Database) -> None:
    for text in ("one", "two"):
        keeper.begin(text)
        keeper.observe(delta("yes"))
        keeper.observe(done())
        keeper.reset()
    assert sorted(messages[0][1] for messages in kept(database)) == ["one", "two"]


def test_what_is_killed_while_it_is_written_is_there_as_stopped(
    keeper: HistoryKeeper, database: Database
) -> None:
    keeper.begin("Tell me.")
    assert kept(database) == [[("user", "Tell me.", "complete"), ("assistant", "", "stopped")]]


@pytest.mark.parametrize(
    "end", [done("cancelled"), Failed(code=ContextOverflow.code, message="too long", n_prompt=9, n_ctx=8)]
)
def test_a_message_that_was_taken_back_is_not_kept(
    keeper: HistoryKeeper, database: Database, end: Done | Failed
) -> None:
    keeper.begin("too much")
    keeper.observe(end)
    keeper.begin("less")
    keeper.observe(delta("ok"))
    keeper.observe(done())
    assert kept(database) == [[("user", "less", "complete"), ("assistant", "ok", "complete")]]


def test_an_answer_that_failed_before_its_first_word_leaves_the_question(
    keeper: HistoryKeeper, database: Database
) -> None:
    keeper.begin("Hello?")
    keeper.observe(Failed(code="engine_crashed", message="gone"))
    assert kept(database) == [[("user", "Hello?", "complete")]]


def test_what_had_arrived_before_a_stop_or_a_crash_is_kept(keeper: HistoryKeeper, database: Database) -> None:
    keeper.begin("a")
    keeper.observe(delta("half"))
    keeper.observe(done("cancelled"))
    keeper.begin("b")
    keeper.observe(delta("a quarter"))
    keeper.observe(Failed(code="engine_crashed", message="gone"))
    ((_, first, _, second),) = kept(database)
    assert (first, second) == (("assistant", "half", "stopped"), ("assistant", "a quarter", "failed"))


def test_trouble_is_told_once_and_does_not_end_the_answer(
    keeper: HistoryKeeper, database: Database, problems: list[str]
) -> None:
    keeper.begin("first")
    keeper.observe(delta("yes"))
    keeper.observe(done())
    with database.writing():
        database.execute("DELETE FROM messages")
        database.execute("DELETE FROM conversations")
    for text in ("second", "third"):
        keeper.begin(text)
        keeper.observe(delta("yes"))
        keeper.observe(done())
    assert len(problems) == 1
    assert problems[0].startswith("This chat is not being kept:")

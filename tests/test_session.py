"""A conversation over the scripted engine: which messages are sent after what went wrong."""

from __future__ import annotations

import asyncio

from edgeapp.errors import ContextOverflow
from edgeapp.protocol import Failed, Sampling
from edgeapp.session import ChatSession, ChatSettings
from tests.scripted_engine import Crash, Hold, ScriptedEngine, Step, deltas, reply


def _session(*answers: list[Step], system: str = "") -> tuple[ChatSession, ScriptedEngine]:
    engine = ScriptedEngine(answers=answers)
    return ChatSession(engine, ChatSettings(system=system, sampling=Sampling())), engine


async def _say(session: ChatSession, *texts: str) -> None:
    for text in texts:
        async for _ in session.send(text):
            pass


def _sent(engine: ScriptedEngine) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in engine.requests[-1].messages]


async def test_the_system_prompt_and_all_turns_are_sent() -> None:
    session, engine = _session(reply("one"), reply("two"), system="be brief")
    await _say(session, "first", "second")
    assert _sent(engine) == [
        ("system", "be brief"),
        ("user", "first"),
        ("assistant", "one"),
        ("user", "second"),
    ]


async def test_a_message_without_an_answer_is_joined_with_the_next_one() -> None:
    session, engine = _session([Crash()], reply("fine"))
    await _say(session, "what is this?", "try again")
    assert _sent(engine) == [("user", "what is this?\n\ntry again")]


async def test_a_message_that_is_too_long_is_not_sent_again() -> None:
    overflow = Failed(code=ContextOverflow.code, message="Too long.", hint="Shorten it.")
    session, engine = _session([overflow], reply("fine"))
    await _say(session, "very long", "short")
    assert _sent(engine) == [("user", "short")]
    assert [turn.text for turn in session.turns] == ["very long", "short", "fine"]


async def test_a_partial_answer_is_part_of_the_conversation() -> None:
    session, engine = _session([*deltas("half"), Crash()], reply("fine"))
    await _say(session, "go", "on")
    assert _sent(engine) == [("user", "go"), ("assistant", "half"), ("user", "on")]


async def test_reset_forgets_everything() -> None:
    session, engine = _session(reply("one"), reply("two"))
    await _say(session, "first")
    session.reset()
    await _say(session, "second")
    assert _sent(engine) == [("user", "second")]


async def test_a_message_that_was_stopped_before_its_first_word_is_taken_back() -> None:
    engine = ScriptedEngine(answers=[[Hold()], reply("fine")])
    session = ChatSession(engine, ChatSettings(sampling=Sampling()))
    stream = session.send("never mind")
    first = asyncio.ensure_future(anext(stream))
    while not engine.requests:
        await asyncio.sleep(0)
    session.stop()
    await first
    async for _ in stream:
        pass
    await _say(session, "this instead")
    assert _sent(engine) == [("user", "this instead")]

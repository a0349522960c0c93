"""A conversation over the scripted engine: which messages are sent after what went wrong."""

from __future__ import annotations

import asyncio

import pytest

from edgeapp.errors import ContextOverflow
from edgeapp.protocol import AdapterUse, Drafting, Failed, Grammar, Sampling
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


async def test_what_is_asked_for_goes_with_every_message() -> None:
    engine = ScriptedEngine()
    settings = ChatSettings(
        system="be brief",
        sampling=Sampling(temp=0.5),
        grammar=Grammar(kind="regex", source="a+"),
        adapters=(AdapterUse(name="style"),),
        template_options={"enable_thinking": False},
        drafting=Drafting(mode="off"),
        logprobs=2,
    )
    await _say(ChatSession(engine, settings), "hi")
    (request,) = engine.requests
    assert (request.sampling, request.grammar, request.adapters) == (
        settings.sampling,
        settings.grammar,
        settings.adapters,
    )
    assert (request.template_options, request.drafting.mode, request.logprobs) == (
        {"enable_thinking": False},
        "off",
        2,
    )


@pytest.mark.parametrize(("system", "n_messages"), [("", 0), ("be brief", 1)])
async def test_the_system_prompt_is_a_prefix_to_keep(system: str, n_messages: int) -> None:
    session, engine = _session(reply("one"), system=system)
    await _say(session, "first")
    assert engine.requests[0].n_prefix_messages == n_messages


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


async def _ask_until_full(session: ChatSession, client: ScriptedEngine, n_turns: int) -> None:
    for n in range(n_turns):
        await _say(session, f"question {n} " + "word " * 500)
    assert len(client.requests) == n_turns


def _overflow(n_prompt: int) -> list[Step]:
    return [Failed(code=ContextOverflow.code, message="Too long.", n_prompt=n_prompt, n_ctx=4096)]


async def test_trimming_leaves_out_the_oldest_exchanges_and_sends_the_last_message_again() -> None:
    session, engine = _session(*[reply("answer " * 300)] * 4, _overflow(5000), system="be brief")
    await _ask_until_full(session, engine, 4)
    await _say(session, "and now?")
    assert session.unsent == "and now?"
    assert await session.trim() == 2
    async for _ in session.retry():
        pass
    sent = _sent(engine)
    assert sent[0] == ("system", "be brief")
    assert [content.split()[1] for role, content in sent[1:] if role == "user"][:-1] == ["1", "2", "3"]
    assert sent[-1] == ("user", "and now?")
    assert [turn.is_sent for turn in session.turns] == [False, False, *[True] * 8]


async def test_a_conversation_that_fits_is_not_trimmed() -> None:
    session, engine = _session(reply("one"), reply("two"))
    await _say(session, "first")
    assert await session.trim() == 0
    await _say(session, "second")
    assert len(_sent(engine)) == 3


async def test_a_message_that_does_not_fit_alone_is_said_so() -> None:
    session, _ = _session(_overflow(9000))
    await _say(session, "word " * 9000)
    with pytest.raises(ContextOverflow, match="alone does not fit"):
        await session.trim()


async def test_a_summary_stands_for_what_is_no_longer_sent() -> None:
    answers = [*[reply("answer " * 300)] * 4, _overflow(5000), reply("They spoke of words.")]
    session, engine = _session(*answers)
    await _ask_until_full(session, engine, 4)
    await _say(session, "and now?")
    assert await session.summarise() == 2
    assert "question 0" in _sent(engine)[0][1]
    async for _ in session.retry():
        pass
    first = _sent(engine)[0][1]
    assert "They spoke of words." in first
    assert "question 1" in first
    assert "question 0" not in first


async def test_a_summary_leaves_most_of_a_small_context_for_what_it_sums_up() -> None:
    overflow = Failed(code=ContextOverflow.code, message="Too long.", n_prompt=300, n_ctx=256)
    answers: list[list[Step]] = [reply("answer " * 120), [overflow], reply("They spoke of words.")]
    engine = ScriptedEngine(answers=answers, n_ctx=256)
    session = ChatSession(engine, ChatSettings(sampling=Sampling()))
    await _say(session, "word " * 30, "and now? " * 60)
    assert await session.summarise() == 2
    assert engine.requests[-1].max_tokens == 64
    assert engine.requests[-1].template_options == {"enable_thinking": False}

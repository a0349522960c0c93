"""A conversation that is too long: the chat says so, and shortens it only when asked."""

from __future__ import annotations

import pytest

from edgeapp.errors import ContextOverflow, LoadFailed
from edgeapp.protocol import Failed
from tests.scripted_engine import ScriptedEngine, Step, reply
from tests.tui.chat_pilot import Chat, make_app, open_chat

OVERFLOW = Failed(
    code=ContextOverflow.code,
    message="The conversation has 5000 tokens, the context holds 4096.",
    hint="Start a new chat.",
    n_prompt=5000,
    n_ctx=4096,
)


def _too_long(*after: list[Step]) -> ScriptedEngine:
    """An engine whose second answer, to a long conversation, is that it does not fit."""
    return ScriptedEngine(answers=[reply("word " * 3500), [OVERFLOW], *after])


async def _fill(chat: Chat) -> None:
    await chat.type_and_send("first")
    await chat.until_answered()
    await chat.type_and_send("second")
    await chat.until(lambda: "5000 tokens" in chat.notes())
    await chat.until_state("ready")
    assert "/trim or /summarise makes room" in chat.notes()


async def test_trim_leaves_the_oldest_out_and_sends_the_message_again() -> None:
    engine = _too_long(reply("Here."))
    async with open_chat(engine) as chat:
        await _fill(chat)
        await chat.type_and_send("/trim")
        await chat.until_answered(2)
        assert chat.answers()[-1] == "Here."
        assert "The 2 oldest messages are no longer sent" in chat.notes()
        assert len(chat.answers()) == 2, "what is no longer sent stays visible"
    assert [message.content for message in engine.requests[-1].messages] == ["second"]


async def test_summarise_sends_a_summary_in_their_place() -> None:
    engine = _too_long(reply("They said word."), reply("Here."))
    async with open_chat(engine) as chat:
        await _fill(chat)
        await chat.type_and_send("/summarise")
        await chat.until_answered(2)
        assert chat.answers()[-1] == "Here."
        assert "They said word." in chat.notes()
    (message,) = engine.requests[-1].messages
    assert "They said word." in message.content
    assert message.content.endswith("second")


async def test_a_model_that_writes_no_summary_changes_nothing() -> None:
    engine = _too_long(reply(""), reply("Here."))
    async with open_chat(engine) as chat:
        await _fill(chat)
        await chat.type_and_send("/summarise")
        await chat.until(lambda: "wrote no summary" in chat.notes())
        await chat.until_state("ready")
        assert all(turn.is_sent for turn in chat.app.session.turns)
        assert chat.app.session.unsent == "second"


async def test_trim_without_need_says_that_everything_fits() -> None:
    async with open_chat(ScriptedEngine()) as chat:
        await chat.type_and_send("hi")
        await chat.until_answered()
        await chat.type_and_send("/trim")
        await chat.until(lambda: "Everything fits" in chat.notes())


async def test_what_cannot_be_prepared_is_told_and_ends_the_chat_with_it() -> None:
    async def prepare() -> None:
        raise LoadFailed("style.gguf is an adapter of another model.", hint="Use one of this model.")

    app = make_app(ScriptedEngine(), prepare=prepare)
    async with app.run_test() as pilot:
        chat = Chat(app, pilot)
        await chat.until_state("failed")
        assert "another model" in chat.notes()
    with pytest.raises(LoadFailed):
        raise app.load_problem or AssertionError

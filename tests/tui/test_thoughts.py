"""What a model thinks before it answers, on the screen."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from edgeapp.tui.widgets.thought import Thought
from tests.scripted_engine import Crash, Hold, ScriptedEngine, Step, done, thoughts
from tests.tui.chat_pilot import open_chat

if TYPE_CHECKING:
    from tests.tui.chat_pilot import Chat


def _shown(chat: Chat) -> list[str]:
    return [str(thought.content) for thought in chat.app.query(Thought)]


async def test_a_thought_is_written_out_and_folded_when_the_answer_begins() -> None:
    steps: list[Step] = [*thoughts("First ", "this."), Hold(), *thoughts(answer="So: 4."), done(n_tokens=3)]
    engine = ScriptedEngine(answers=[steps])
    async with open_chat(engine) as chat:
        await chat.type_and_send("2 + 2?")
        await chat.until(lambda: "First this." in chat.screen())
        assert "thinking" in chat.screen()
        engine.let_go()
        await chat.until_answered()
        assert chat.answers() == ["So: 4."]
        assert "First this." not in chat.screen()
        assert re.search(r"thought for \d+\.\d s, 2 tokens", chat.screen())
        assert chat.app.session.turns[-1].reasoning == "First this."


async def test_a_key_unfolds_all_thoughts_and_folds_them_again() -> None:
    answers: list[list[Step]] = [
        [*thoughts(f"Idea {n}.", answer=f"Answer {n}."), done(n_tokens=2)] for n in (1, 2)
    ]
    async with open_chat(ScriptedEngine(answers=answers)) as chat:
        for n in (1, 2):
            await chat.type_and_send("go")
            await chat.until_answered(n)
        await chat.press("ctrl+t")
        assert [text.split("\n")[-1] for text in _shown(chat)] == ["Idea 1.", "Idea 2."]
        await chat.press("ctrl+t")
        assert all("Idea" not in text for text in _shown(chat))


async def test_a_click_unfolds_one_thought() -> None:
    answers: list[list[Step]] = [[*thoughts("An idea.", answer="Answer."), done(n_tokens=2)]]
    async with open_chat(ScriptedEngine(answers=answers)) as chat:
        await chat.type_and_send("go")
        await chat.until_answered()
        await chat.pilot.click(Thought)
        assert "An idea." in chat.screen()
        await chat.pilot.click(Thought)
        assert "An idea." not in chat.screen()


async def test_the_end_of_a_long_thought_is_shown_while_it_arrives_and_all_of_it_later() -> None:
    engine = ScriptedEngine(answers=[[*thoughts(*(f"step{n} " for n in range(500))), Hold()]])
    async with open_chat(engine) as chat:
        await chat.type_and_send("go")
        await chat.until(lambda: "step499" in chat.screen())
        assert "step0 " not in _shown(chat)[0]
        await chat.press("escape")
        await chat.until_state("ready")
        await chat.press("ctrl+t")
        assert "step0 " in _shown(chat)[0]


async def test_a_thought_without_an_answer_stays_and_its_end_is_told() -> None:
    engine = ScriptedEngine(answers=[[*thoughts("Half an idea"), Crash()]])
    async with open_chat(engine) as chat:
        await chat.type_and_send("go")
        await chat.until(lambda: "incomplete" in chat.notes())
        assert "thought for" in _shown(chat)[0]
        assert chat.answers() == []


async def test_markup_in_a_thought_is_shown_literally() -> None:
    engine = ScriptedEngine(answers=[[*thoughts("[bold]no[/bold]"), Hold()]])
    async with open_chat(engine) as chat:
        await chat.type_and_send("go")
        await chat.until(lambda: "[bold]no[/bold]" in chat.screen())

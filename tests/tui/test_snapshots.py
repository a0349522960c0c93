"""One picture per screen state. After a wanted change run `pytest tests/tui --snapshot-update`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from edgeapp.errors import InvalidModel
from edgeapp.protocol import Progress
from edgeapp.tui.app import ChatApp
from edgeapp.tui.widgets.thought import Thought
from tests.scripted_engine import Crash, Hold, LoadStep, ScriptedEngine, Step, deltas
from tests.tui import conversation
from tests.tui.chat_pilot import Chat, make_app

if TYPE_CHECKING:
    from textual.pilot import Pilot

SIZE_CELLS = (80, 24)


class SnapCompare(Protocol):
    def __call__(self, app: ChatApp, *, terminal_size: tuple[int, int], run_before: object) -> bool: ...


def chat(pilot: Pilot[None]) -> Chat:
    assert isinstance(pilot.app, ChatApp)
    return Chat(pilot.app, pilot)


def test_loading(snap_compare: SnapCompare) -> None:
    steps: list[LoadStep] = [Progress(phase="weights", fraction=0.43), Hold()]

    async def act(pilot: Pilot[None]) -> None:
        await chat(pilot).until(lambda: "43 %" in chat(pilot).screen())
        await chat(pilot).type_and_send("A question that waits")
        await pilot.pause()

    app = make_app(ScriptedEngine(load_steps=steps))
    assert snap_compare(app, terminal_size=SIZE_CELLS, run_before=act)


def test_answered(snap_compare: SnapCompare) -> None:
    async def act(pilot: Pilot[None]) -> None:
        await chat(pilot).type_and_send(conversation.FIRST_QUESTION)
        await chat(pilot).until_answered(1)
        await chat(pilot).type_and_send(conversation.SECOND_QUESTION)
        await chat(pilot).until_answered(2)
        await pilot.pause()

    app = make_app(ScriptedEngine(load_steps=conversation.LOAD, answers=conversation.answers()))
    assert snap_compare(app, terminal_size=SIZE_CELLS, run_before=act)


def test_thinking(snap_compare: SnapCompare) -> None:
    """The first thought is folded, the second arrives."""

    async def act(pilot: Pilot[None]) -> None:
        await chat(pilot).type_and_send(conversation.FIRST_QUESTION)
        await chat(pilot).until_answered(1)
        pilot.app.query_one(Thought).fold(thought_s=3.2, n_tokens=120)  # however long this machine took
        await chat(pilot).type_and_send("And in one sentence?")
        await chat(pilot).until(lambda: "saves in time" in chat(pilot).screen())
        await pilot.pause()

    app = make_app(ScriptedEngine(load_steps=conversation.LOAD, answers=conversation.thoughtful_answers()))
    assert snap_compare(app, terminal_size=SIZE_CELLS, run_before=act)


def test_reading_the_prompt(snap_compare: SnapCompare) -> None:
    steps: list[Step] = [Progress(phase="prefill", fraction=0.6), Hold()]

    async def act(pilot: Pilot[None]) -> None:
        await chat(pilot).type_and_send("A long question")
        await chat(pilot).until(lambda: "60 %" in chat(pilot).screen())

    app = make_app(ScriptedEngine(answers=[steps]))
    assert snap_compare(app, terminal_size=SIZE_CELLS, run_before=act)


def test_stopped(snap_compare: SnapCompare) -> None:
    async def act(pilot: Pilot[None]) -> None:
        await chat(pilot).type_and_send("Tell me a story")
        await chat(pilot).until(lambda: chat(pilot).answers() == ["Once upon a"])
        await pilot.press("escape")
        await chat(pilot).until_state("ready")
        await pilot.pause()

    app = make_app(ScriptedEngine(answers=[[*deltas("Once upon a"), Hold()]]))
    assert snap_compare(app, terminal_size=SIZE_CELLS, run_before=act)


def test_engine_stopped(snap_compare: SnapCompare) -> None:
    async def act(pilot: Pilot[None]) -> None:
        await chat(pilot).type_and_send("Tell me a story")
        await chat(pilot).until(lambda: "incomplete" in chat(pilot).notes())
        await pilot.pause()

    app = make_app(ScriptedEngine(answers=[[*deltas("Once upon a"), Crash()]]))
    assert snap_compare(app, terminal_size=SIZE_CELLS, run_before=act)


def test_load_failed(snap_compare: SnapCompare) -> None:
    error = InvalidModel(
        "model.gguf is 12 bytes long, shorter than a GGUF header.", hint="Download it again."
    )

    async def act(pilot: Pilot[None]) -> None:
        await chat(pilot).until_state("failed")
        await pilot.pause()

    app = make_app(ScriptedEngine(load_error=error))
    assert snap_compare(app, terminal_size=SIZE_CELLS, run_before=act)


def test_small_terminal(snap_compare: SnapCompare) -> None:
    async def act(pilot: Pilot[None]) -> None:
        await chat(pilot).type_and_send("Show me the router.")
        await chat(pilot).until_answered(1)
        await pilot.pause()

    app = make_app(ScriptedEngine(answers=conversation.answers()))
    assert snap_compare(app, terminal_size=(40, 10), run_before=act)

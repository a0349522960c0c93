"""Freeing the engine's memory from the chat, and seeing what it holds."""

from __future__ import annotations

from msgspec.structs import replace

from edgeapp.protocol import BufferUse, Memory
from edgeapp.runtime.client import EngineDown, Released
from edgeapp.session.holdings import Holdings
from edgeapp.tui import memory_text
from tests.scripted_engine import LOADED, Hold, ScriptedEngine, deltas
from tests.tui.chat_pilot import open_chat

MIB = 1 << 20
ON_GPU = BufferUse(device="CUDA0", weights_bytes=3000 * MIB, kv_bytes=96 * MIB, compute_bytes=40 * MIB)
IN_RAM = BufferUse(device="CPU", weights_bytes=9000 * MIB, kv_bytes=0, compute_bytes=8 * MIB)


async def test_a_release_is_shown_and_the_next_message_loads_again() -> None:
    engine = ScriptedEngine()
    async with open_chat(engine, size=(100, 24)) as chat:
        await chat.type_and_send("hello")
        await chat.until_answered()
        engine.emit(Memory(rss_bytes=123 * MIB))
        await chat.until(lambda: "123 MiB" in chat.screen())
        await chat.type_and_send("/release")
        await chat.until_state("released")
        assert engine.is_released
        assert "123 MiB" not in chat.screen()
        assert "all memory is free" in chat.notes()
        assert "the next message loads it again" in chat.screen()
        await chat.type_and_send("/vram")
        await chat.until(lambda: "holds nothing" in chat.notes())
        await chat.type_and_send("and on")
        await chat.until_answered(2)
        assert not engine.is_released


async def test_a_release_stops_the_answer_and_takes_back_what_waits() -> None:
    engine = ScriptedEngine(answers=[[*deltas("first"), Hold()]])
    async with open_chat(engine) as chat:
        await chat.type_and_send("one")
        await chat.until(lambda: chat.answers() == ["first"])
        await chat.type_and_send("two")
        await chat.type_and_send("/release")
        await chat.until_state("released")
        await chat.until(lambda: "stopped" in chat.notes())
        assert chat.app.title_line.state == "released"
        assert chat.app.prompt.text == "two"
        assert len(engine.requests) == 1


async def test_there_is_nothing_to_release_before_the_model_is_loaded() -> None:
    engine = ScriptedEngine(load_steps=[Hold()])
    async with open_chat(engine) as chat:
        await chat.type_and_send("/release")
        await chat.until(lambda: "not loaded yet" in chat.notes())
        assert not engine.is_released


def test_each_device_has_a_line_with_what_is_held_there() -> None:
    assert memory_text.held((ON_GPU, IN_RAM), is_released=False).splitlines() == [
        "CUDA0  weights 3,000 MiB, KV cache 96 MiB, compute 40 MiB, together 3,136 MiB",
        "RAM    weights 9,000 MiB, KV cache 0 MiB, compute 8 MiB, together 9,008 MiB",
    ]
    assert memory_text.held((), is_released=False) == "The engine holds nothing yet."


def test_a_device_cannot_write_to_the_terminal() -> None:
    evil = BufferUse(device="GPU\x1b[2J", weights_bytes=1, kv_bytes=0, compute_bytes=0)
    assert "\x1b" not in memory_text.held((evil,), is_released=False)


def test_a_release_says_why_and_what_is_kept() -> None:
    assert "after a while" in memory_text.released(Released(n_conversations=1, why="idle"))
    assert "reads again" in memory_text.released(Released(n_conversations=0))


def test_what_is_held_follows_the_engine() -> None:
    engine = ScriptedEngine()
    holdings = Holdings(engine)
    engine.emit(replace(LOADED, buffers=(ON_GPU,)))
    assert holdings.buffers == (ON_GPU,)
    engine.emit(Released(n_conversations=2))
    assert (len(holdings.buffers), holdings.n_waiting) == (0, 2)
    engine.emit(LOADED)
    assert holdings.n_waiting == 0
    engine.emit(EngineDown(reason="", hint="", retry_in_s=None))
    assert not holdings.buffers

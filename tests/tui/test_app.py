from __future__ import annotations

import os
import signal

import pytest
from textual import events

from edgeapp.errors import InvalidModel
from edgeapp.protocol import Delta, Device, Memory, Notice, Progress
from edgeapp.tui.widgets.transcript import Answer
from tests.scripted_engine import Crash, Hold, ScriptedEngine, Step, deltas, done, reply
from tests.tui.chat_pilot import open_chat


async def test_a_message_is_sent_and_its_answer_is_shown() -> None:
    engine = ScriptedEngine(answers=[reply("Hello", " there.")])
    async with open_chat(engine) as chat:
        await chat.press(*"hi", "enter")
        await chat.until_answered()
        assert chat.answers() == ["Hello there."]
        assert chat.user_messages() == ["hi"]
        assert "Hello there." in chat.screen()
    assert [m.content for m in engine.requests[0].messages] == ["hi"]


async def test_the_next_message_carries_the_conversation() -> None:
    engine = ScriptedEngine(answers=[reply("one"), reply("two")])
    async with open_chat(engine) as chat:
        await chat.type_and_send("first")
        await chat.until_answered()
        await chat.type_and_send("second")
        await chat.until_answered(2)
    assert [m.content for m in engine.requests[1].messages] == ["first", "one", "second"]


async def test_many_tokens_become_few_writes_and_none_is_lost() -> None:
    pieces = [f"{n} " for n in range(200)]
    async with open_chat(ScriptedEngine(answers=[reply(*pieces)])) as chat:
        await chat.type_and_send("count")
        await chat.until_answered()
        assert chat.answers() == ["".join(pieces)]
        assert chat.app.query_one(Answer).n_writes <= 5


async def test_markup_in_an_answer_and_in_a_message_is_shown_literally() -> None:
    async with open_chat(ScriptedEngine(answers=[reply("[bold]no[/bold] <b>html</b>")])) as chat:
        await chat.type_and_send("[red]yes[/red]")
        await chat.until_answered()
        assert "[red]yes[/red]" in chat.screen()
        assert "[bold]no[/bold] <b>html</b>" in chat.screen()


async def test_wide_and_right_to_left_text_stays_intact() -> None:
    async with open_chat(ScriptedEngine(answers=[reply("日本語 and שלום")])) as chat:
        await chat.type_and_send("مرحبا 漢字")
        await chat.until_answered()
        assert "日本語 and שלום" in chat.screen()
        assert "مرحبا 漢字" in chat.screen()


@pytest.mark.parametrize("key", ["escape", "ctrl+c"])
async def test_stopping_keeps_the_partial_answer_and_marks_it(key: str) -> None:
    engine = ScriptedEngine(answers=[[*deltas("partial"), Hold()]])
    async with open_chat(engine) as chat:
        await chat.type_and_send("go")
        await chat.until(lambda: chat.answers() == ["partial"])
        await chat.press(key)
        await chat.until_state("ready")
        assert chat.answers() == ["partial"]
        assert "stopped" in chat.notes()
        assert chat.app.session.turns[-1].status == "stopped"


async def test_stopping_works_while_the_prompt_is_read() -> None:
    engine = ScriptedEngine(answers=[[Progress(phase="prefill", fraction=0.6), Hold()]])
    async with open_chat(engine) as chat:
        await chat.type_and_send("a long prompt")
        await chat.until(lambda: "reading the prompt 60 %" in chat.screen())
        await chat.press("escape")
        await chat.until_state("ready")
        assert "stopped" in chat.notes()
        assert "reading the prompt" not in chat.screen()


async def test_a_stop_before_the_engine_was_asked_takes_the_message_back() -> None:
    engine = ScriptedEngine(answers=[[Hold()]])
    async with open_chat(engine) as chat:
        await chat.until_state("ready")
        chat.app._send("go")
        chat.app.action_stop()
        await chat.until_state("ready")
        assert chat.app.prompt.text == "go"
        assert engine.requests == []


async def test_a_message_waits_until_the_model_is_loaded() -> None:
    engine = ScriptedEngine(load_steps=[Progress(phase="weights", fraction=0.43), Hold()])
    async with open_chat(engine) as chat:
        await chat.until(lambda: "reading weights 43 %" in chat.screen())
        await chat.type_and_send("early")
        assert engine.requests == []
        assert chat.user_messages() == ["early"]
        engine.let_go()
        await chat.until_answered()
        assert chat.answers() == ["early"]


async def test_stopping_gives_a_waiting_message_back_to_the_input() -> None:
    engine = ScriptedEngine(load_steps=[Hold()])
    async with open_chat(engine) as chat:
        await chat.type_and_send("early")
        await chat.press("escape")
        await chat.until(lambda: chat.user_messages() == [])
        assert chat.app.prompt.text == "early"
        engine.let_go()
        await chat.until_state("ready")
        assert engine.requests == []


async def test_messages_sent_during_an_answer_are_answered_one_after_the_other() -> None:
    held: list[Step] = [*deltas("first"), Hold(), done(n_tokens=1)]
    engine = ScriptedEngine(answers=[held, reply("second"), reply("third")])
    async with open_chat(engine) as chat:
        await chat.type_and_send("one")
        await chat.until(lambda: chat.answers() == ["first"])
        await chat.type_and_send("two")
        await chat.type_and_send("three")
        assert len(engine.requests) == 1
        engine.let_go()
        await chat.until_answered(3)
        shown = [type(child).__name__ for child in chat.app.transcript.children]
        assert chat.answers() == ["first", "second", "third"]
        assert shown == ["UserMessage", "Answer"] * 3


async def test_ctrl_c_twice_leaves_when_idle() -> None:
    engine = ScriptedEngine()
    async with open_chat(engine) as chat:
        await chat.until_state("ready")
        await chat.press("ctrl+c")
        assert "press Ctrl+C again to quit" in chat.screen()
        assert chat.app.is_running
        await chat.press("ctrl+c")
        assert not chat.app.is_running
    assert engine.closed


@pytest.mark.parametrize("key", ["ctrl+q", "ctrl+d"])
async def test_one_key_leaves_and_closes_the_engine(key: str) -> None:
    engine = ScriptedEngine()
    async with open_chat(engine) as chat:
        await chat.press(key)
        assert not chat.app.is_running
    assert engine.closed


async def test_ctrl_d_with_text_deletes_instead_of_leaving() -> None:
    async with open_chat(ScriptedEngine()) as chat:
        await chat.press("a", "b", "home", "ctrl+d")
        assert chat.app.prompt.text == "b"


@pytest.mark.parametrize("command", ["/quit", "/bye", "/exit"])
async def test_quit_commands_leave(command: str) -> None:
    async with open_chat(ScriptedEngine()) as chat:
        await chat.type_and_send(command)
        assert not chat.app.is_running


@pytest.mark.parametrize("how", ["ctrl+n", "/new"])
async def test_a_new_chat_forgets_the_old_one(how: str) -> None:
    engine = ScriptedEngine(answers=[reply("one"), reply("two")])
    async with open_chat(engine) as chat:
        await chat.type_and_send("first")
        await chat.until_answered()
        await (chat.type_and_send(how) if how.startswith("/") else chat.press(how))
        await chat.until(lambda: chat.answers() == [])
        await chat.type_and_send("second")
        await chat.until_answered()
    assert [m.content for m in engine.requests[1].messages] == ["second"]


async def test_a_new_chat_stops_the_running_answer_first() -> None:
    async with open_chat(ScriptedEngine(answers=[[*deltas("partial"), Hold()]])) as chat:
        await chat.type_and_send("go")
        await chat.until(lambda: chat.answers() == ["partial"])
        await chat.press("ctrl+n")
        await chat.until(lambda: chat.answers() == [])
        assert chat.app.session.turns == []
        assert not chat.app.session.busy
        await chat.until(lambda: chat.notes() == "")


async def test_the_chat_survives_a_crash_and_the_next_message_works() -> None:
    engine = ScriptedEngine(answers=[[*deltas("half an"), Crash()], reply("whole")])
    async with open_chat(engine) as chat:
        await chat.type_and_send("one")
        await chat.until_state("down")
        await chat.until(lambda: "incomplete" in chat.notes())
        assert "The engine was killed (SIGKILL). It is being started again." in chat.notes()
        assert chat.answers() == ["half an"]
        await chat.type_and_send("two")
        await chat.until_answered(2)
        assert chat.answers() == ["half an", "whole"]


async def test_a_load_failure_shows_its_sentence_its_hint_and_the_way_out() -> None:
    error = InvalidModel("model.gguf is not a GGUF file.", hint="Download it again.")
    async with open_chat(ScriptedEngine(load_steps=[Hold()], load_error=error)) as chat:
        await chat.type_and_send("early")
        engine = chat.app._client
        assert isinstance(engine, ScriptedEngine)
        engine.let_go()
        await chat.until_state("failed")
        assert chat.notes().splitlines() == [error.message, error.hint, "Press Ctrl+Q to quit."]
        assert chat.app.prompt.text == "early"


async def test_a_message_after_a_load_failure_says_so_again() -> None:
    error = InvalidModel("model.gguf is not a GGUF file.", hint="Download it again.")
    async with open_chat(ScriptedEngine(load_error=error)) as chat:
        await chat.until_state("failed")
        await chat.type_and_send("hello?")
        await chat.until(lambda: chat.notes().count(error.message) == 2)
        await chat.until_state("failed")


async def test_figures_follow_the_answer_and_the_memory() -> None:
    engine = ScriptedEngine(answers=[[Delta(text="x", n_tokens=1), done(n_tokens=100, decode_tps=42.5)]])
    async with open_chat(engine, size=(120, 24)) as chat:
        await chat.type_and_send("hi")
        await chat.until_answered()
        gpu = Device(name="g", description="g", kind="gpu", free_bytes=6 * 2**30, total_bytes=8 * 2**30)
        engine.emit(Memory(rss_bytes=512 * 2**20, devices=(gpu,)))
        await chat.pilot.pause()
        assert "42.5 tok/s · context 120/4,096 (2 %) · memory 512 MiB · GPU 2.0/8.0 GiB" in chat.screen()


async def test_a_notice_is_shown() -> None:
    engine = ScriptedEngine(load_steps=[Notice(code="template", message="No chat template; using ChatML.")])
    async with open_chat(engine) as chat:
        await chat.until(lambda: "No chat template; using ChatML." in chat.screen())


async def test_an_unknown_command_is_not_sent() -> None:
    engine = ScriptedEngine()
    async with open_chat(engine) as chat:
        await chat.type_and_send("/frobnicate")
        await chat.until(lambda: "There is no command /frobnicate." in chat.screen())
        assert engine.requests == []


async def test_a_path_is_a_message() -> None:
    engine = ScriptedEngine()
    async with open_chat(engine) as chat:
        await chat.type_and_send("/etc/passwd is what?")
        await chat.until_answered()
    assert engine.requests[0].messages[-1].content == "/etc/passwd is what?"


async def test_help_lists_the_commands() -> None:
    async with open_chat(ScriptedEngine()) as chat:
        await chat.type_and_send("/help")
        await chat.until(lambda: "/new" in chat.screen())


async def test_pasting_lines_does_not_send_and_drops_control_characters() -> None:
    engine = ScriptedEngine()
    async with open_chat(engine) as chat:
        chat.app.prompt.post_message(events.Paste("one\r\ntwo\rthree\x1b[2J"))
        await chat.until(lambda: chat.app.prompt.text != "")
        assert chat.app.prompt.text == "one\ntwo\nthree[2J"
        assert engine.requests == []


@pytest.mark.parametrize("key", ["shift+enter", "alt+enter", "ctrl+j"])
async def test_newline_keys_start_a_new_line(key: str) -> None:
    engine = ScriptedEngine()
    async with open_chat(engine) as chat:
        await chat.press("a", key, "b")
        assert chat.app.prompt.text == "a\nb"
        assert engine.requests == []


async def test_the_input_grows_to_six_rows() -> None:
    async with open_chat(ScriptedEngine()) as chat:
        for n_lines, n_rows in ((1, 1), (3, 3), (6, 6), (20, 6)):
            chat.app.prompt.load_text("\n".join("x" * n_lines))
            await chat.pilot.pause()
            assert chat.app.prompt.content_size.height == n_rows


async def test_up_on_an_empty_input_recalls_the_last_message() -> None:
    async with open_chat(ScriptedEngine()) as chat:
        await chat.type_and_send("again please")
        await chat.until_answered()
        await chat.press("up")
        assert chat.app.prompt.text == "again please"


async def test_the_last_answer_is_copied() -> None:
    async with open_chat(ScriptedEngine(answers=[reply("**copy** me")])) as chat:
        await chat.press("ctrl+y")
        assert "no answer to copy yet" in chat.screen()
        await chat.type_and_send("hi")
        await chat.until_answered()
        await chat.press("ctrl+y")
        assert chat.app.clipboard == "**copy** me"
        assert "copied" in chat.screen()


async def test_the_view_follows_the_answer_unless_the_user_scrolled_up() -> None:
    engine = ScriptedEngine(
        answers=[[*deltas("line\n\n" * 40), Hold(), *deltas("more\n\n" * 40), done(n_tokens=2)]]
    )
    async with open_chat(engine) as chat:
        transcript = chat.app.transcript
        await chat.type_and_send("go")
        await chat.until(
            lambda: transcript.max_scroll_y > 0 and transcript.scroll_y == transcript.max_scroll_y
        )
        await chat.press("pageup")
        await chat.until(lambda: transcript.scroll_y < transcript.max_scroll_y)
        scroll_y = transcript.scroll_y
        engine.let_go()
        await chat.until_answered()
        await chat.pilot.pause()
        assert transcript.scroll_y == scroll_y


async def test_a_long_note_is_scrolled_to_its_end() -> None:
    async with open_chat(ScriptedEngine(), size=(40, 10)) as chat:
        await chat.type_and_send("/help")
        transcript = chat.app.transcript
        await chat.until(lambda: transcript.max_scroll_y > 0)
        await chat.until(lambda: transcript.scroll_y == transcript.max_scroll_y)


@pytest.mark.parametrize("size", [(40, 10), (20, 6), (300, 100)])
async def test_it_works_at_every_size(size: tuple[int, int]) -> None:
    async with open_chat(ScriptedEngine(answers=[reply("| a | b |\n|---|---|\n| 1 | 2 |")])) as chat:
        await chat.type_and_send("hi")
        await chat.until_answered()
        await chat.pilot.resize_terminal(*size)
        await chat.pilot.pause()
        assert "tok/s" in chat.screen() or size[0] < 40
        assert all(len(row) <= size[0] for row in chat.screen().splitlines())
        assert chat.app.transcript.region.height >= 1
        assert chat.app.prompt.content_size.height >= 1


async def test_an_unknown_theme_is_reported_and_a_known_one_applied() -> None:
    async with open_chat(ScriptedEngine(), theme="no-such") as chat:
        await chat.until(lambda: "There is no theme called 'no-such'." in chat.notes())
    async with open_chat(ScriptedEngine(), theme="nord") as chat:
        assert chat.app.theme == "nord"
        assert chat.notes() == ""


async def test_an_interrupt_from_outside_stops_the_answer() -> None:
    async with open_chat(ScriptedEngine(answers=[[*deltas("partial"), Hold()]])) as chat:
        await chat.type_and_send("go")
        await chat.until(lambda: chat.answers() == ["partial"])
        os.kill(os.getpid(), signal.SIGINT)
        await chat.until_state("ready")
        assert "stopped" in chat.notes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_ends_the_chat_and_closes_the_engine(number: signal.Signals) -> None:
    engine = ScriptedEngine()
    async with open_chat(engine) as chat:
        os.kill(os.getpid(), number)
        await chat.until(lambda: not chat.app.is_running)
    assert engine.closed

"""The chat screen: one conversation with one engine.

Connects keys, the session's events and the widgets. Knows neither processes nor llama.cpp: whatever
implements `EngineClient` answers here.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, assert_never

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType

from edgeapp.cleantext import clean_line
from edgeapp.errors import EdgeappError
from edgeapp.monitor.overview import Overlook
from edgeapp.protocol import Delta, Done, ExpertUsage, Failed, Loaded, Memory, Notice, Progress, ToolCallDelta
from edgeapp.runtime.client import EngineClient, EngineDown, GenerationEvent, Released, StatusEvent
from edgeapp.session import ChatSession, ChatSettings
from edgeapp.tui import commands, memory_text, wording
from edgeapp.tui.pacing import DecodeRate
from edgeapp.tui.streaming import StreamingAnswer
from edgeapp.tui.widgets.lines import ActivityLine, StatusLine, TitleLine
from edgeapp.tui.widgets.live_memory import LiveMemory
from edgeapp.tui.widgets.prompt import Prompt
from edgeapp.tui.widgets.thought import Thought
from edgeapp.tui.widgets.transcript import Note, NoteKind, Transcript, UserMessage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from textual.timer import Timer
    from textual.widget import Widget

    from edgeapp.session.chat import Onlooker
    from edgeapp.tui.wording import State

_RATE_INTERVAL_S = 0.5
_FLASH_S = 2.0
_LAST_RESORT_S = 1.5
_QUIT_QUESTION = "press Ctrl+C again to quit"


@dataclass(frozen=True, kw_only=True)
class _Queued:
    """A message that waits for the engine or for the answer before it."""

    text: str
    shown: UserMessage


class ChatApp(App[None]):
    """A full-screen chat. `run()` returns when the user leaves; the client is closed then."""

    CSS_PATH = "chat.tcss"
    ENABLE_COMMAND_PALETTE = False
    VERTICAL_BREAKPOINTS = [(0, "-short"), (16, "-roomy")]  # noqa: RUF012 - the base class types it
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c", "interrupt", show=False, priority=True),
        Binding("escape", "stop", show=False, priority=True),
        Binding("ctrl+q", "quit", show=False, priority=True),
        Binding("ctrl+n", "new_chat", show=False, priority=True),
        Binding("ctrl+y", "copy_answer", show=False, priority=True),
        Binding("ctrl+t", "fold_thoughts", show=False, priority=True),
        Binding("f2", "show_memory", show=False, priority=True),
    ]

    def __init__(
        self,
        client: EngineClient,
        settings: ChatSettings,
        *,
        title: str,
        subtitle: str = "",
        welcome: str = "",
        theme: str = "",
        prepare: Callable[[], Awaitable[None]] | None = None,
        onlooker: Onlooker | None = None,
        watch_over: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`prepare` runs once the model is loaded and before anything is sent; it raises `EdgeappError`.

        `onlooker` hears of every answer. `watch_over` runs for as long as the chat does.
        """
        super().__init__()
        self.load_problem: EdgeappError | None = None
        """Why the model could not be loaded, for whoever started the chat."""
        self._welcome = [clean_line(line, max_chars=500) for line in welcome.splitlines()]
        self._client = client
        self._prepare = prepare
        self._watch_over = watch_over
        self.session = ChatSession(client, settings, onlooker=onlooker)
        self._wanted_theme = theme
        self._queue: deque[_Queued] = deque()
        self._may_send = False
        self._model_ready = False
        self._answering = False
        self._stopping = False
        self._new_chat_wanted = False
        self._asked_to_quit = False
        self._flash_timer: Timer | None = None
        self.memory = LiveMemory(Overlook().look)
        self.transcript = Transcript()
        self.prompt = Prompt()
        self.title_line = TitleLine(clean_line(title), clean_line(subtitle))
        self.activity = ActivityLine()
        self.status = StatusLine()

    # Life --------------------------------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        yield self.title_line
        yield self.memory
        yield self.transcript
        yield self.activity
        yield self.prompt
        yield self.status

    def on_mount(self) -> None:
        self.memory.display = False
        self.prompt.focus()
        self._apply_theme()
        self._handle_signals()
        for line in self._welcome:
            self._note(line)
        self._client.watch(self._on_status)
        self.run_worker(self._load())
        if self._watch_over is not None:
            self.run_worker(self._watch_over())

    async def on_unmount(self) -> None:
        await self._client.aclose()

    def _apply_theme(self) -> None:
        if self._wanted_theme in self.available_themes:
            self.theme = self._wanted_theme
        elif self._wanted_theme:
            self._note(
                f"There is no theme called {self._wanted_theme!r}.",
                hint=f"Themes: {', '.join(sorted(self.available_themes))}.",
                kind="notice",
            )

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self.action_interrupt)
        for ending in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(ending) is not signal.SIG_IGN:
                loop.add_signal_handler(ending, self._end_on, ending)

    def _end_on(self, number: signal.Signals) -> None:
        """Leave at once, and for certain: with its terminal gone, Textual can wait for it for ever.

        A terminal that closes also sends SIGCONT, on which Textual would start to write to it again.
        """
        signal.signal(signal.SIGCONT, signal.SIG_DFL)
        if not self.is_headless:  # then the process is ours to end
            last_resort = threading.Timer(_LAST_RESORT_S, os._exit, (128 + number,))
            last_resort.daemon = True
            last_resort.start()
        self.exit()

    async def _load(self) -> None:
        self.activity.show_text("starting the engine")
        try:
            loaded = await self._client.load()
            if self._prepare is not None:
                await self._prepare()
            self._on_status(loaded)
        except EdgeappError as problem:
            self._show_load_failure(problem)
        self._may_send = True
        self._answer_next()

    def _show_load_failure(self, problem: EdgeappError) -> None:
        self.load_problem = problem
        self.activity.show_text("")
        self._set_state("failed")
        self._note(problem.message, hint=problem.hint, kind="error")
        self._note("Press Ctrl+Q to quit.")
        self._put_queue_back()

    # Engine status -----------------------------------------------------------------------------------

    def _on_status(self, event: StatusEvent) -> None:
        match event:
            case Progress():
                self.activity.show_progress(event)
            case Loaded(n_ctx=n_ctx):
                self._model_ready = True
                self.load_problem = None
                self.status.figures = replace(self.status.figures, n_ctx=n_ctx, n_ctx_used=0)
                self.activity.show_text("")
                self._set_state(self._state_now())
            case Notice(message=message, hint=hint):
                self._note(message, hint=hint, kind="notice")
            case Memory():
                self.status.figures = wording.with_memory(self.status.figures, event)
            case ExpertUsage():
                pass
            case EngineDown(reason=reason, hint=hint):
                self._model_ready = False
                self._note(f"{reason} {wording.next_start(event)}", hint=hint, kind="error")
                self.activity.show_text("")
                self._set_state("down")
            case Released():
                self._model_ready = False
                self._note(memory_text.released(event))
                self.status.figures = wording.without_memory(self.status.figures)
                self.activity.show_text("")
                self._set_state("released")
            case _:
                assert_never(event)

    # Sending and answering ---------------------------------------------------------------------------

    def on_prompt_submitted(self, event: Prompt.Submitted) -> None:
        match commands.parse(event.text):
            case commands.SendMessage(text=text):
                self._send(text)
            case commands.Command(name="new"):
                self.action_new_chat()
            case commands.Command(name="trim" | "summarise" as name):
                self._shorten(name)
            case commands.Command(name="release"):
                self._release()
            case commands.Command(name="vram"):
                self._note(
                    memory_text.held(self.session.holdings.buffers, is_released=self.session.is_released)
                )
            case commands.Command(name="help"):
                self._note(commands.HELP)
            case commands.Command(name="quit"):
                self.exit()
            case commands.UnknownCommand(word=word):
                hint = "/help lists the commands; a space in front sends it as a message."
                self._note(f"There is no command {word}.", hint=hint, kind="notice")
            case None:
                return

    def _release(self) -> None:
        if not self._may_send:
            self._note("There is nothing to release: the model is not loaded yet.", kind="notice")
            return
        self.action_stop()
        self.run_worker(self.session.release())

    def _send(self, text: str) -> None:
        shown = UserMessage(text)
        shown.add_class("-queued")
        self.transcript.mount(shown)
        self.transcript.anchor()
        self._queue.append(_Queued(text=text, shown=shown))
        self._answer_next()

    def _answer_next(self) -> None:
        if self._queue and self._may_send and not self._answering:
            self._answering = True
            self._set_state("answering")
            queued = self._queue.popleft()
            queued.shown.remove_class("-queued")
            self.run_worker(self._answer(queued))

    def _shorten(self, how: Literal["trim", "summarise"]) -> None:
        """Make the conversation fit again, then send the message that was too long."""
        if self._answering or not self._may_send:
            self._note("The conversation can be shortened when no answer is being written.", kind="notice")
            return
        self._answering = True
        self._set_state("answering")
        self.activity.show_text("shortening the conversation")
        self.run_worker(self._shortened(how))

    async def _shortened(self, how: Literal["trim", "summarise"]) -> None:
        try:
            n_left_out = await (self.session.trim() if how == "trim" else self.session.summarise())
        except EdgeappError as problem:
            self._note(problem.message, hint=problem.hint, kind="error")
        else:
            self._note(wording.shortened(n_left_out, how, self.session.summary), kind="notice")
            if self.session.unsent:
                await self._show_stream(self.session.retry(), after=None)
        self._answer_ended()

    async def _answer(self, queued: _Queued) -> None:
        """Stream one answer into the transcript, then go on with whatever was asked for meanwhile."""
        if self._stopping:
            # Stopped before the engine was asked: nothing happened yet, so the message is simply taken back.
            self._queue.appendleft(queued)
            self._put_queue_back()
        else:
            await self._show_stream(self.session.send(queued.text), after=queued.shown)
        self._answer_ended()

    def _answer_ended(self) -> None:
        self._answering = self._stopping = False
        self.activity.show_text("")
        if self.status.state != "down":
            self._set_state(self._state_now())
        if self._new_chat_wanted:
            self._start_new_chat()
        self._answer_next()

    async def _show_stream(self, events: AsyncIterator[GenerationEvent], *, after: Widget | None) -> None:
        # No await before the engine is asked: a stop in between would reach no generation.
        shown = StreamingAnswer(self.transcript, after=after)
        rate = DecodeRate(interval_s=_RATE_INTERVAL_S)
        self.activity.show_text("waiting for the first word")
        try:
            async for event in events:
                self._on_generation(event, shown, rate)
                if isinstance(event, Done | Failed):
                    shown.finish()
                    self._end(shown, event)
        finally:
            shown.finish()

    def _on_generation(self, event: GenerationEvent, shown: StreamingAnswer, rate: DecodeRate) -> None:
        match event:
            case Progress():
                self.activity.show_progress(event)
            case Delta(text=text, channel="reasoning"):
                shown.think(text, n_tokens=event.n_tokens)
                self.activity.show_text(wording.THINKING)
                self._show_rate(event, rate)
            case Delta(text=text):
                shown.write(text)
                self.activity.show_text("")
                self._show_rate(event, rate)
            case Done():
                self.status.figures = wording.with_answer(self.status.figures, event)
            case Failed() | ToolCallDelta():
                return
            case _:
                assert_never(event)

    def _show_rate(self, delta: Delta, rate: DecodeRate) -> None:
        decode_tps = rate.observe(n_tokens=delta.n_tokens, now_s=time.monotonic())
        if decode_tps is not None:
            self.status.figures = replace(
                self.status.figures, decode_tps=decode_tps, n_ctx_used=delta.n_ctx_used
            )

    def _end(self, shown: StreamingAnswer, event: Done | Failed) -> None:
        last = shown.close()
        ending = wording.ending(event)
        if ending and (last is not None or isinstance(event, Done)):
            self.transcript.mount(Note(ending, kind="ending"), after=last)
        if isinstance(event, Failed) and self.status.state != "down":
            self._note(event.message, hint=wording.hint(event), kind="error")

    # Stopping and leaving ----------------------------------------------------------------------------

    def action_stop(self) -> None:
        """End the running answer and take back the messages that wait behind it."""
        self._put_queue_back()
        if self._answering and not self._stopping:
            self._stopping = True
            self._set_state("stopping")
            self.session.stop()

    def action_interrupt(self) -> None:
        """Ctrl+C: stop what runs; else copy what is selected; else clear the input; else ask and leave."""
        if (self._answering and not self._stopping) or self._queue:
            self.action_stop()
        elif selected := self.prompt.selected_text or self.screen.get_selected_text():
            self._copy(selected)
        elif self.prompt.text:
            self.prompt.set_aside()
        elif self._asked_to_quit:
            self.exit()
        else:
            self._asked_to_quit = True
            self._flash(_QUIT_QUESTION)

    def on_prompt_leave(self) -> None:
        self.exit()

    def action_new_chat(self) -> None:
        self.action_stop()
        if self._answering:
            self._new_chat_wanted = True
        else:
            self._start_new_chat()

    def _start_new_chat(self) -> None:
        self._new_chat_wanted = False
        self.session.reset()
        self.transcript.remove_children()
        self.status.figures = replace(self.status.figures, decode_tps=0.0, n_ctx_used=0)

    def _put_queue_back(self) -> None:
        """Give messages that were never sent back to the input, so that nothing typed is lost."""
        for queued in self._queue:
            queued.shown.remove()
        if self._queue:
            self.prompt.put_back("\n".join(queued.text for queued in self._queue))
        self._queue.clear()

    # Small things ------------------------------------------------------------------------------------

    def action_copy_answer(self) -> None:
        answers = [turn.text for turn in self.session.turns if turn.role == "assistant" and turn.text]
        if answers:
            self._copy(answers[-1])
        else:
            self._flash("no answer to copy yet")

    def action_show_memory(self) -> None:
        self.memory.display = not self.memory.display

    def action_fold_thoughts(self) -> None:
        """Unfold all thoughts, or fold them when the last one is unfolded."""
        thoughts = [thought for thought in self.query(Thought) if thought.is_over]
        fold = bool(thoughts) and not thoughts[-1].is_folded
        for thought in thoughts:
            thought.is_folded = fold

    def on_prompt_scroll_chat(self, event: Prompt.ScrollChat) -> None:
        if event.pages < 0:
            self.transcript.scroll_page_up(animate=False)
        else:
            self.transcript.scroll_page_down(animate=False)

    def _copy(self, text: str) -> None:
        self.copy_to_clipboard(text)
        self._flash("copied")

    def _flash(self, text: str) -> None:
        """Show `text` in place of the key hints for a moment."""
        if self._flash_timer is not None:
            self._flash_timer.stop()
        self.status.flash = text
        self._flash_timer = self.set_timer(_FLASH_S, self._end_flash)

    def _end_flash(self) -> None:
        self.status.flash = ""
        self._asked_to_quit = False

    def _note(self, text: str, *, hint: str = "", kind: NoteKind = "info") -> None:
        self.transcript.mount(Note(text, hint=hint, kind=kind))
        self.transcript.anchor()

    def _state_now(self) -> State:
        if self._answering:
            return "stopping" if self._stopping else "answering"
        if self.session.is_released:
            return "released"
        return "ready" if self._model_ready else "failed"

    def _set_state(self, state: State) -> None:
        self.title_line.state = state
        self.status.state = state

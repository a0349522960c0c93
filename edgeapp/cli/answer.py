"""Answer one prompt on stdout: plain text as it comes, or one JSON object at the end."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

import click
import msgspec

from edgeapp.cli import print_error
from edgeapp.cli.json_errors import error_line
from edgeapp.errors import EdgeappError, from_code
from edgeapp.protocol import Delta, Done, ExpertUsage, Failed, Loaded, Memory, Notice, Progress, ToolCallDelta
from edgeapp.runtime.client import EngineDown, StatusEvent
from edgeapp.runtime.worker_client import WorkerClient
from edgeapp.session import ChatSession, ChatSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeapp.protocol import Load

EXIT_SIGNAL = 128
"""A shell reports death by signal n as 128 + n; ending cleanly on one reports the same."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One prompt for one model. `load` tells the engine how to load it."""

    prompt: str
    load: Load
    settings: ChatSettings
    model: str
    as_json: bool


async def answer(job: Job) -> int:
    """Print the answer and return the exit code: 0, that of the error, or 128 + n after signal n."""
    client = WorkerClient(job.load)
    client.watch(_StatusLine(job.model).show)
    session = ChatSession(client, job.settings)
    with _stopping_on_signals(session) as received:
        try:
            end = await _stream(session, job)
        except asyncio.CancelledError:
            if not received:
                raise
            return EXIT_SIGNAL + received[0]
        finally:
            await client.aclose()
    if isinstance(end, Failed):
        problem = from_code(end.code, end.message, end.hint)
        _report(problem, as_json=job.as_json)
        return problem.exit_code
    if job.as_json:
        click.echo(msgspec.json.encode(_result(session, end, job.model)))
    return EXIT_SIGNAL + received[0] if received else 0


async def _stream(session: ChatSession, job: Job) -> Done | Failed:
    async for event in session.send(job.prompt):
        match event:
            case Delta(text=text, channel="answer") if not job.as_json:
                sys.stdout.write(text)
                sys.stdout.flush()
            case Done() | Failed():
                if not job.as_json:
                    click.echo()
                return event
            case Progress() | Delta() | ToolCallDelta():
                pass
            case _:
                assert_never(event)
    raise AssertionError  # a generation ends with Done or Failed


def _result(session: ChatSession, done: Done, model: str) -> dict[str, object]:
    text = session.turns[-1].text if session.turns[-1].role == "assistant" else ""
    return {
        "text": text,
        "finish_reason": done.finish_reason,
        "usage": done.usage,
        "timings": done.timings,
        "model": model,
        "n_ctx": done.n_ctx,
    }


def _report(problem: EdgeappError, *, as_json: bool) -> None:
    if as_json:
        click.echo(error_line(problem))
    print_error(problem)


@contextmanager
def _stopping_on_signals(session: ChatSession) -> Iterator[list[int]]:
    """Stop the answer on the first signal and everything on the second; yield the signals received.

    What has arrived is kept. A signal that is ignored, as SIGHUP under nohup, stays ignored.
    """
    received: list[int] = []
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    handled = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    caught = [number for number in handled if signal.getsignal(number) is not signal.SIG_IGN]

    def on_signal(number: int) -> None:
        received.append(number)
        session.stop()
        if len(received) > 1 and task is not None:
            task.cancel()

    for number in caught:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield received
    finally:
        for number in caught:
            loop.remove_signal_handler(number)


class _StatusLine:
    """One line on stderr while the model loads, when somebody is looking; notices always."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._is_terminal = sys.stderr is not None and sys.stderr.isatty()
        self._is_shown = False

    def show(self, event: StatusEvent) -> None:
        match event:
            case Progress(phase=phase, fraction=fraction):
                share = f" {fraction:.0%}" if phase == "weights" else ""
                self._write(f"Loading {self._model}: {phase}{share}")
            case Loaded():
                self._clear()
            case Notice(message=message):
                self._clear()
                click.echo(f"note: {message}", err=True)
            case EngineDown(reason=reason):
                self._clear()
                click.echo(f"note: {reason}", err=True)
            case Memory() | ExpertUsage():
                pass
            case _:
                assert_never(event)

    def _write(self, text: str) -> None:
        if self._is_terminal:
            with suppress(OSError):
                sys.stderr.write(f"\r{text}\x1b[K")
                sys.stderr.flush()
            self._is_shown = True

    def _clear(self) -> None:
        if self._is_shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._is_shown = False

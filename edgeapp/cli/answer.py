"""Answer one prompt on stdout: plain text as it comes, or one JSON object at the end."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, assert_never

import click
import msgspec

from edgeapp.cli import print_error
from edgeapp.cli.adapters import load_adapters
from edgeapp.cli.engine import JobEngine
from edgeapp.cli.json_errors import error_line
from edgeapp.cli.logprobs import content_item
from edgeapp.cli.thoughts import Thoughts
from edgeapp.errors import EdgeappError, from_code
from edgeapp.protocol import Delta, Done, ExpertUsage, Failed, Loaded, Memory, Notice, Progress, ToolCallDelta
from edgeapp.runtime.client import EngineDown, Released, StatusEvent
from edgeapp.session import ChatSession

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from edgeapp.cli.job import Job
    from edgeapp.protocol import TokenLogprob
    from edgeapp.runtime.client import GenerationEvent
    from edgeapp.session.turns import Turn

EXIT_SIGNAL = 128
"""A shell reports death by signal n as 128 + n; ending cleanly on one reports the same."""


@dataclass(kw_only=True)
class _Answer:
    """What has arrived beside the text that the session keeps."""

    has_text: bool = False
    reasoning: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)


async def answer(job: Job, prompt: str, *, as_json: bool, before: Sequence[Turn] = ()) -> int:
    """Print the answer and return the exit code: 0, that of the error, or 128 + n after signal n.

    `before` is the conversation that `prompt` continues.
    """
    engine = JobEngine(job, front_end="run")
    client = engine.client
    status = _StatusLine(job.model)
    status.say(job.engine.planned.plan.reason)
    client.watch(status.show)
    session = ChatSession(client, job.settings, onlooker=engine)
    session.turns.extend(before)
    preparing = asyncio.ensure_future(load_adapters(client, job.adapters))
    with _stopping_on_signals(session, preparing) as received:
        try:
            await preparing
            arrived, end = await _stream(session.send(prompt), as_json=as_json)
        except asyncio.CancelledError:
            if not received:
                raise
            return EXIT_SIGNAL + received[0]
        except EdgeappError as problem:
            return _report(problem, as_json=as_json)
        finally:
            engine.close()
            await client.aclose()
    if isinstance(end, Failed):
        return _report(from_code(end.code, end.message, end.hint), as_json=as_json)
    if as_json:
        click.echo(msgspec.json.encode(_result(session, arrived, end, job)))
    return EXIT_SIGNAL + received[0] if received else 0


async def _stream(events: AsyncIterator[GenerationEvent], *, as_json: bool) -> tuple[_Answer, Done | Failed]:
    arrived, thoughts = _Answer(), Thoughts()
    async for event in events:
        match event:
            case Delta(text=text, channel="reasoning"):
                arrived.reasoning.append(text)
                if not as_json:
                    thoughts.write(text)
            case Delta(text=text, logprobs=logprobs):
                arrived.has_text = True
                arrived.logprobs.extend(logprobs)
                if not as_json:
                    thoughts.end()
                    sys.stdout.write(text)
                    sys.stdout.flush()
            case Done() | Failed():
                if not as_json:
                    thoughts.end()
                    if arrived.has_text or isinstance(event, Done):
                        click.echo()
                return arrived, event
            case Progress() | ToolCallDelta():
                pass
            case _:
                assert_never(event)
    raise AssertionError  # a generation ends with Done or Failed


def _result(session: ChatSession, arrived: _Answer, done: Done, job: Job) -> dict[str, object]:
    text = session.turns[-1].text if session.turns[-1].role == "assistant" else ""
    result: dict[str, object] = {"text": text}
    if arrived.reasoning:
        result["reasoning"] = "".join(arrived.reasoning)
    result |= {
        "finish_reason": done.finish_reason,
        "usage": done.usage,
        "timings": done.timings,
        "model": job.model,
        "plan": job.engine.planned.plan.reason,
        "n_ctx": done.n_ctx,
    }
    if session.settings.logprobs >= 0:
        result["logprobs"] = [content_item(logprob) for logprob in arrived.logprobs]
    return result


def _report(problem: EdgeappError, *, as_json: bool) -> int:
    """Print `problem` and return its exit code."""
    if as_json:
        click.echo(error_line(problem))
    print_error(problem)
    return problem.exit_code


@contextmanager
def _stopping_on_signals(session: ChatSession, preparing: asyncio.Future[None]) -> Iterator[list[int]]:
    """Stop on the first signal, end everything on the second; yield the signals received.

    `preparing` is what comes before the answer. What has arrived is kept. A signal that is ignored, as SIGHUP
    under nohup, stays ignored.
    """
    received: list[int] = []
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    handled = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    caught = [number for number in handled if signal.getsignal(number) is not signal.SIG_IGN]

    def on_signal(number: int) -> None:
        received.append(number)
        preparing.cancel()
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

    def say(self, sentence: str) -> None:
        if self._is_terminal:
            click.secho(sentence, err=True, dim=True)

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
            case Memory() | ExpertUsage() | Released():
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

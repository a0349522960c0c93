"""An engine that follows a script: the second implementation of `EngineClient`, for UI tests.

It obeys the protocol of `edgeapp.runtime.client` and runs the same contract tests as the real client.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from edgeapp.errors import EdgeappError
from edgeapp.protocol import (
    Delta,
    Done,
    Failed,
    FinishReason,
    Generate,
    Load,
    Loaded,
    Message,
    Progress,
    Timings,
    Usage,
)
from edgeapp.runtime.client import (
    EngineDown,
    GenerationEvent,
    Released,
    StatusEvent,
    StatusListener,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence


@dataclass(frozen=True, kw_only=True)
class Pause:
    """Wait this long."""

    pause_s: float


@dataclass(frozen=True, kw_only=True)
class Hold:
    """Wait until the test calls `let_go`, or the request is cancelled."""


@dataclass(frozen=True, kw_only=True)
class Crash:
    """The worker dies here; the next request starts a new one."""

    reason: str = "The engine was killed (SIGKILL)."


Step: TypeAlias = Progress | Delta | Done | Failed | Pause | Hold | Crash
LoadStep: TypeAlias = StatusEvent | Pause | Hold

LOADED = Loaded(
    n_ctx=4096,
    n_ctx_train=8192,
    n_vocab=49152,
    n_threads=2,
    template="gguf",
    load_s=0.5,
    model_desc="scripted model",
)


def deltas(*pieces: str) -> list[Delta]:
    """Return one `Delta` a piece, counted from 1."""
    return [Delta(text=piece, n_tokens=n) for n, piece in enumerate(pieces, start=1)]


def thoughts(*pieces: str, answer: str = "") -> list[Delta]:
    """Return a `Delta` of reasoning for each piece, and one for the answer, if there is one."""
    reasoning = [
        Delta(text=piece, channel="reasoning", n_tokens=n) for n, piece in enumerate(pieces, start=1)
    ]
    return [*reasoning, Delta(text=answer, n_tokens=len(pieces) + 1)] if answer else reasoning


def done(
    *,
    n_tokens: int,
    finish_reason: FinishReason = "stop",
    decode_tps: float = 50.0,
    drafts: tuple[int, int] = (0, 0),
) -> Done:
    """`drafts` are how many tokens were guessed ahead and how many of them were right."""
    return Done(
        finish_reason=finish_reason,
        usage=Usage(prompt_tokens=20, completion_tokens=n_tokens, cached_tokens=0),
        timings=Timings(
            load_s=0.5,
            ttft_s=0.1,
            prompt_tps=200.0,
            decode_tps=decode_tps,
            draft_tokens=drafts[0],
            draft_accepted=drafts[1],
        ),
        n_ctx=LOADED.n_ctx,
        n_ctx_used=20 + n_tokens,
    )


def reply(*pieces: str) -> list[Step]:
    """Return the script of an answer that ends by itself."""
    return [*deltas(*pieces), done(n_tokens=len(pieces))]


class _Running:
    """One scripted answer."""

    def __init__(self, engine: ScriptedEngine, steps: Sequence[Step]) -> None:
        self._engine = engine
        self._steps = steps
        self._cancelled = asyncio.Event()
        self._n_tokens = 0

    def cancel(self) -> None:
        self._cancelled.set()

    async def __aiter__(self) -> AsyncIterator[GenerationEvent]:
        failure = await self._loaded()
        if failure is not None:
            yield failure
            return
        for step in self._steps:
            event = await self._follow(step)
            if self._cancelled.is_set():
                break
            if event is not None:
                yield event
            if isinstance(event, Done | Failed):
                return
        reason: FinishReason = "cancelled" if self._cancelled.is_set() else "stop"
        yield done(n_tokens=self._n_tokens, finish_reason=reason)

    async def _loaded(self) -> Failed | None:
        """Wait for the model, at most until cancelled."""
        loading = asyncio.ensure_future(self._engine.load())
        await self._unless_cancelled(loading)
        if not loading.done():
            loading.cancel()
            return None
        problem = loading.exception()
        if problem is None:
            return None
        assert isinstance(problem, EdgeappError)
        return Failed(code=problem.code, message=problem.message, hint=problem.hint)

    async def _follow(self, step: Step) -> GenerationEvent | None:
        match step:
            case Pause(pause_s=pause_s):
                await self._unless_cancelled(asyncio.ensure_future(asyncio.sleep(pause_s)))
                return None
            case Hold():
                await self._unless_cancelled(asyncio.ensure_future(self._engine.may_go.wait()))
                return None
            case Crash(reason=reason):
                return self._engine.crash(reason)
            case Delta(n_tokens=n_tokens):
                self._n_tokens = n_tokens
        await asyncio.sleep(0)
        return step

    async def _unless_cancelled(self, waiting: asyncio.Future[Any]) -> None:
        cancelled = asyncio.ensure_future(self._cancelled.wait())
        await asyncio.wait({waiting, cancelled}, return_when=asyncio.FIRST_COMPLETED)
        cancelled.cancel()


@dataclass(kw_only=True)
class ScriptedEngine:
    """`load_steps` are played by the first load; each `generate` takes the next of `answers`.

    When `answers` is used up, the user's message comes back as the answer.
    """

    load_steps: Sequence[LoadStep] = ()
    load_error: EdgeappError | None = None
    n_ctx: int = LOADED.n_ctx
    answers: Sequence[Sequence[Step]] = ()
    requests: list[Generate] = field(default_factory=list)
    closed: bool = False
    may_go: asyncio.Event = field(default_factory=asyncio.Event)
    loads: list[Load] = field(default_factory=list)
    """What `change` was asked for."""
    is_released: bool = False
    _listeners: list[StatusListener] = field(default_factory=list)
    _loading: asyncio.Task[Loaded] | None = None
    _running: list[_Running] = field(default_factory=list)

    def watch(self, listener: StatusListener) -> None:
        self._listeners.append(listener)

    def emit(self, event: StatusEvent) -> None:
        """Tell every listener, as the worker's status events do."""
        for listener in self._listeners:
            listener(event)

    def let_go(self) -> None:
        """Let every `Hold` go on."""
        self.may_go.set()

    async def load(self) -> Loaded:
        if self._loading is None:
            self._loading = asyncio.create_task(self._play_load())
        return await asyncio.shield(self._loading)

    async def release(self) -> None:
        if self.closed or self.is_released:
            return
        for running in self._running:
            running.cancel()
        if self._loading is not None and not self._loading.done():
            self._loading.cancel()
        self._loading = None
        self.is_released = True
        self.emit(Released(n_conversations=min(1, len(self.requests))))

    async def change(self, load: Load, fallbacks: Sequence[Load] = ()) -> Loaded:
        """Running answers go on: a script needs no memory."""
        self.loads += [load, *fallbacks]
        self._loading = asyncio.create_task(self._play_load())
        return await asyncio.shield(self._loading)

    def generate(self, request: Generate) -> _Running:
        n = len(self.requests)
        self.requests.append(request)
        steps = self.answers[n] if n < len(self.answers) else reply(request.messages[-1].content)
        running = _Running(self, steps)
        self._running.append(running)
        return running

    def crash(self, reason: str) -> Failed:
        """Report the death of the worker; the next request loads again."""
        self._loading = None
        self.emit(EngineDown(reason=reason, hint="Your chat is kept.", retry_in_s=0.0))
        hint = "Send the message again."
        return Failed(code="engine_crashed", message=reason, hint=hint)

    async def count_tokens(self, messages: Sequence[Message]) -> int:
        """A token is a word, and each message has one more."""
        return sum(1 + len(message.content.split()) for message in messages)

    async def aclose(self) -> None:
        self.closed = True
        for running in self._running:
            running.cancel()
        if self._loading is not None and not self._loading.done():
            self._loading.cancel()

    async def _play_load(self) -> Loaded:
        for step in self.load_steps:
            match step:
                case Pause(pause_s=pause_s):
                    await asyncio.sleep(pause_s)
                case Hold():
                    await self.may_go.wait()
                case _:
                    self.emit(step)
        await asyncio.sleep(0)
        if self.load_error is not None:
            raise self.load_error
        self.is_released = False
        loaded = msgspec.structs.replace(LOADED, n_ctx=self.n_ctx)
        self.emit(loaded)
        return loaded

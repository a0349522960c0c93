"""The real engine client: one worker process, loaded with one model, started again when it dies.

Text from the worker is cleaned here, once, for every front end.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Self, TypeVar

import msgspec

from edgeapp.cleantext import clean, clean_line
from edgeapp.errors import EdgeappError, EngineCrashed, EngineHung, LoadFailed, from_code
from edgeapp.protocol import (
    AnyEvent,
    Cancel,
    Collected,
    Delta,
    Done,
    Evaluated,
    ExpertUsage,
    Failed,
    Generate,
    Heartbeat,
    Load,
    Loaded,
    Memory,
    Notice,
    Progress,
    Request,
    Timings,
    Tokenize,
    Tokens,
    ToolCallDelta,
    Usage,
)
from edgeapp.runtime.client import (
    EngineDown,
    Generation,
    GenerationEvent,
    StatusEvent,
    StatusListener,
)
from edgeapp.runtime.supervisor import WorkerExit, WorkerProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MAX_STARTS = 3
"""How often a load is tried when the worker dies in it."""
BACKOFF_S = (0.0, 0.5, 2.0, 8.0, 30.0)
"""Pause before the n-th start in a row that follows a crash."""
HANG_TIMEOUT_S = 180.0
"""Silence after which a busy worker counts as hung: a micro-batch of a large model can take a minute."""

AnswerT = TypeVar("AnswerT", Tokens, Evaluated, Collected)


class WorkerClient:
    """`EngineClient` over a worker process. `load` tells which model, context and threads."""

    def __init__(self, load: Load, *, hang_timeout_s: float = HANG_TIMEOUT_S) -> None:
        self._load = load
        self._hang_timeout_s = hang_timeout_s
        self._ids = itertools.count(1)
        self._listeners: list[StatusListener] = []
        self._requests: dict[int, asyncio.Queue[AnyEvent | WorkerExit]] = {}
        self._worker: WorkerProcess | None = None
        self._ready: asyncio.Task[Loaded] | None = None
        self._crashes = 0
        self._wanted = asyncio.Event()
        """Somebody asks for the engine: a start that pauses after a crash goes on at once."""
        self._closed = False

    # EngineClient ---------------------------------------------------------------------------

    def watch(self, listener: StatusListener) -> None:
        self._listeners.append(listener)

    async def load(self) -> Loaded:
        return await asyncio.shield(self._ask_for_engine())

    def generate(self, request: Generate) -> Generation:
        return _WorkerGeneration(self, request)

    async def count_tokens(self, text: str) -> int:
        """Return how many tokens `text` has, control strings taken as text. Raise `EdgeappError`."""
        return len(await self.tokenize(text))

    async def tokenize(
        self, text: str, *, add_special: bool = False, parse_special: bool = False
    ) -> tuple[int, ...]:
        """Return the tokens of `text`. Raise `EdgeappError`.

        `add_special` adds BOS and EOS where the vocabulary wants them, `parse_special` turns control strings
        into their tokens.
        """
        request = Tokenize(id=0, text=text, add_special=add_special, parse_special=parse_special)
        return (await self.ask(request, Tokens)).ids

    async def ask(self, request: Request, answer: type[AnswerT]) -> AnswerT:
        """Send `request` under an id of its own and return the `answer` that ends it. Raise `EdgeappError`.

        When the caller is cancelled, so is the request.
        """
        await self.load()
        async with _Exchange(self) as exchange:
            exchange.send(msgspec.structs.replace(request, id=exchange.id))
            try:
                return await _ending(exchange, answer)
            except asyncio.CancelledError:
                exchange.send(Cancel(id=next(self._ids), target=exchange.id))
                raise

    async def aclose(self) -> None:
        self._closed = True
        if self._ready is not None:
            self._ready.cancel()
            await asyncio.gather(self._ready, return_exceptions=True)
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.shutdown()

    @property
    def worker_pid(self) -> int | None:
        return self._worker.pid if self._worker else None

    # Start and restart ---------------------------------------------------------------------------

    def _ask_for_engine(self) -> asyncio.Task[Loaded]:
        """Bring the engine up on somebody's behalf, without a pause."""
        self._wanted.set()
        return self._bring_up()

    def _bring_up(self) -> asyncio.Task[Loaded]:
        """Return the task that loads the model; a finished one counts while its worker lives."""
        if self._closed:
            raise EngineCrashed("The engine has been closed.")
        usable = self._ready is not None and (not self._ready.done() or self._worker is not None)
        if not usable:
            self._ready = asyncio.create_task(self._start_until_loaded())
            self._ready.add_done_callback(_retrieve)
        assert self._ready is not None  # noqa: S101 - set above
        return self._ready

    async def _start_until_loaded(self) -> Loaded:
        for attempt in itertools.count(1):
            try:
                await self._pause()
                return await self._start_and_load()
            except EngineCrashed as crash:
                if crash.returncode == -signal.SIGABRT:
                    # A failed assertion while loading comes from the file and would come again.
                    raise LoadFailed(
                        crash.message, hint="The model file is damaged or not supported."
                    ) from crash
                self._crashes += 1
                self._wanted.clear()
                if attempt == MAX_STARTS:
                    raise
                self._tell(EngineDown(reason=crash.message, hint=crash.hint, retry_in_s=self._backoff_s()))
        raise AssertionError  # the loop above never ends by itself

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._backoff_s()):
                await self._wanted.wait()

    def _backoff_s(self) -> float:
        return BACKOFF_S[min(self._crashes, len(BACKOFF_S) - 1)]

    async def _start_and_load(self) -> Loaded:
        self._tell(Progress(phase="starting", fraction=0.0))
        self._worker = await WorkerProcess.start(self._on_event, self._on_exit)
        try:
            async with _Exchange(self) as exchange:
                exchange.send(msgspec.structs.replace(self._load, id=exchange.id))
                return await self._loaded(exchange)
        except BaseException:
            worker, self._worker = self._worker, None
            if worker is not None:
                await worker.kill()
            raise

    async def _loaded(self, exchange: _Exchange) -> Loaded:
        while True:
            match await exchange.receive():
                case Progress() | Notice() | Memory() as status:
                    self._tell(status)
                case Loaded() as loaded:
                    loaded = msgspec.structs.replace(loaded, model_desc=clean_line(loaded.model_desc))
                    self._tell(loaded)
                    return loaded
                case Failed() as failed:
                    raise from_code(failed.code, clean_line(failed.message, max_chars=500), failed.hint)
                case _:
                    continue

    # Worker events ---------------------------------------------------------------------------

    def _on_event(self, event: AnyEvent) -> None:
        if isinstance(event, Failed) and event.id == 0:  # a request that it could not even read
            for queue in self._requests.values():
                queue.put_nowait(event)
            return
        if event.id in self._requests:
            self._requests[event.id].put_nowait(event)

    def _on_exit(self, worker_exit: WorkerExit) -> None:
        self._worker = None
        for queue in self._requests.values():
            queue.put_nowait(worker_exit)
        loading = self._ready is not None and not self._ready.done()
        if self._closed or loading:
            return
        self._crashes += 1
        retry_in_s = self._backoff_s() if self._crashes <= MAX_STARTS else None
        self._tell(EngineDown(reason=worker_exit.reason, hint=worker_exit.hint, retry_in_s=retry_in_s))
        if retry_in_s is not None:
            self._wanted.clear()
            self._bring_up()

    def _tell(self, event: StatusEvent) -> None:
        if isinstance(event, Notice):
            event = Notice(id=event.id, code=event.code, message=clean_line(event.message), hint=event.hint)
        for listener in self._listeners:
            listener(event)

    def _answered(self) -> None:
        self._crashes = 0


async def _ending(exchange: _Exchange, answer: type[AnswerT]) -> AnswerT:
    while True:
        match await exchange.receive():
            case Progress() | Heartbeat():
                continue
            case Failed() as failed:
                raise from_code(failed.code, _cleaned(failed).message, _cleaned(failed).hint)
            case event if isinstance(event, answer):
                return event
            case other:
                raise EngineCrashed(f"The engine gave an unexpected answer: {type(other).__name__}.")


def _retrieve(task: asyncio.Task[Loaded]) -> None:
    """Mark a background restart's failure as seen; whoever asks next gets it again from a new try."""
    if not task.cancelled():
        task.exception()


class _Exchange:
    """One request id with the queue of events about it."""

    def __init__(self, client: WorkerClient) -> None:
        self._client = client
        self._queue: asyncio.Queue[AnyEvent | WorkerExit] = asyncio.Queue()
        self.id = next(client._ids)  # noqa: SLF001 - the client's other half
        self._worker = client._worker  # noqa: SLF001

    async def __aenter__(self) -> Self:
        self._client._requests[self.id] = self._queue  # noqa: SLF001
        return self

    async def __aexit__(self, *_exc: object) -> None:
        del self._client._requests[self.id]  # noqa: SLF001

    def send(self, request: Request) -> None:
        if self._worker is None:
            raise EngineCrashed("The engine is not running.", hint="Try again.")
        self._worker.send(request)

    async def receive(self) -> AnyEvent:
        """Return the next event. Raise `EngineCrashed` or `EngineHung` when none will come."""
        assert self._worker is not None  # noqa: S101 - send comes first
        timeout_s = self._client._hang_timeout_s  # noqa: SLF001
        while True:
            try:
                async with asyncio.timeout(timeout_s):
                    event = await self._queue.get()
            except TimeoutError:
                silent_s = asyncio.get_running_loop().time() - self._worker.last_event_s
                if silent_s < timeout_s:
                    continue
                reason = f"The engine was silent for {silent_s:.0f} s and has been ended."
                await self._worker.kill(reason)
                raise EngineHung(reason, hint="Send the message once more.") from None
            if isinstance(event, WorkerExit):
                raise EngineCrashed(event.reason, hint=event.hint, returncode=event.returncode)
            return event


class _WorkerGeneration:
    """A running answer; see `edgeapp.runtime.client.Generation`."""

    def __init__(self, client: WorkerClient, request: Generate) -> None:
        self._client = client
        self._request = request
        self._cancelled = asyncio.Event()
        self._exchange: _Exchange | None = None

    def cancel(self) -> None:
        self._cancelled.set()
        if self._exchange is not None:
            self._send_cancel(self._exchange)

    async def __aiter__(self) -> AsyncIterator[GenerationEvent]:
        try:
            if not await self._wait_until_loaded():
                yield _cancelled_before_start()
                return
            async with _Exchange(self._client) as exchange:
                self._exchange = exchange
                async for event in self._stream(exchange):
                    yield event
        except EdgeappError as problem:
            yield _cleaned(Failed(code=problem.code, message=problem.message, hint=problem.hint))

    async def _wait_until_loaded(self) -> bool:
        """Return False when the answer was cancelled first."""
        ready = self._client._ask_for_engine()  # noqa: SLF001 - the client's other half
        cancelled = asyncio.create_task(self._cancelled.wait())
        try:
            await asyncio.wait({ready, cancelled}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            cancelled.cancel()
        if self._cancelled.is_set():
            return False
        if ready.cancelled():
            raise EngineCrashed("The engine has been closed.")
        ready.result()
        return True

    async def _stream(self, exchange: _Exchange) -> AsyncIterator[GenerationEvent]:
        ended = False
        try:
            exchange.send(msgspec.structs.replace(self._request, id=exchange.id))
            while not ended:
                event = await exchange.receive()
                match event:
                    case Progress():
                        yield event
                    case Delta():
                        yield msgspec.structs.replace(event, text=clean(event.text))
                    case Done() | Failed():
                        ended = True
                        self._client._answered()  # noqa: SLF001
                        yield event if isinstance(event, Done) else _cleaned(event)
                    case Memory() | ExpertUsage():
                        self._client._tell(event)  # noqa: SLF001
                    case ToolCallDelta():
                        yield msgspec.structs.replace(
                            event, name=clean_line(event.name), arguments=clean(event.arguments)
                        )
                    case _:
                        pass
        except EdgeappError:
            ended = True
            raise
        finally:
            self._exchange = None
            if not ended:  # the reader went away in the middle
                self._send_cancel(exchange)

    def _send_cancel(self, exchange: _Exchange) -> None:
        exchange.send(Cancel(id=next(self._client._ids), target=exchange.id))  # noqa: SLF001


def _cleaned(event: Failed) -> Failed:
    return msgspec.structs.replace(
        event, message=clean_line(event.message, max_chars=500), hint=clean_line(event.hint, max_chars=500)
    )


def _cancelled_before_start() -> Done:
    return Done(
        finish_reason="cancelled",
        usage=Usage(prompt_tokens=0, completion_tokens=0, cached_tokens=0),
        timings=Timings(load_s=0.0, ttft_s=0.0, prompt_tps=0.0, decode_tps=0.0),
        n_ctx=0,
        n_ctx_used=0,
    )

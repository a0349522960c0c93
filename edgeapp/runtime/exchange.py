"""The requests that one worker works at, each with the events about it. Knows no process and no model."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Self, TypeVar

from msgspec.structs import replace

from edgeapp.errors import EngineError, from_code
from edgeapp.protocol import (
    AnyEvent,
    Cancel,
    Event,
    ExpertUsage,
    Failed,
    Heartbeat,
    Memory,
    Notice,
    Progress,
    Request,
)
from edgeapp.runtime.worker_exit import WorkerExit

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeapp.runtime.client import StatusListener

AnswerT = TypeVar("AnswerT", bound=Event)


class Exchanges:
    """All open exchanges with one worker. `send` writes a request to it."""

    def __init__(self, send: Callable[[Request], None]) -> None:
        self._send = send
        self._ids = itertools.count()
        self._open: dict[int, Exchange] = {}
        self._exit: WorkerExit | None = None
        self._n_opened = 0
        self.busy = asyncio.Event()
        """Set while the worker owes somebody an answer."""
        self.idle = asyncio.Event()
        """Set while it does not."""
        self.idle.set()

    def __len__(self) -> int:
        return len(self._open)

    def open(self, answer: type[Event]) -> Exchange:
        """Return a new exchange, which an event of type `answer` ends, or `Failed`. The first has id 0."""
        exchange = Exchange(next(self._ids), answer, send=self._send, on_end=self._forget)
        self._open[exchange.id] = exchange
        self._n_opened += 1
        self.busy.set()
        self.idle.clear()
        if self._exit is not None:
            exchange.put(self._exit)
        return exchange

    def dispatch(self, event: AnyEvent) -> bool:
        """Hand `event` to the exchange it is about; return False when there is none."""
        if event.id in self._open:
            self._open[event.id].put(event)
            return True
        if isinstance(event, Failed) and event.id == 0:
            self._fail_unanswered(event)
            return True
        return False

    def end(self, worker_exit: WorkerExit) -> None:
        """Tell everybody that the worker is gone."""
        self._exit = worker_exit
        for exchange in tuple(self._open.values()):
            exchange.put(worker_exit)

    def cancel_all(self) -> None:
        """Ask the worker to end all requests; it still answers each."""
        for exchange in tuple(self._open.values()):
            exchange.cancel()

    async def idle_for(self, idle_s: float) -> None:
        """Return when the worker has had nothing to do for `idle_s` seconds on end."""
        n_opened = -1
        while n_opened != self._n_opened:
            await self.idle.wait()
            n_opened = self._n_opened
            await asyncio.sleep(idle_s)

    def _fail_unanswered(self, event: Failed) -> None:
        """A request could not even be read. It is one of those about which nothing was heard yet."""
        for exchange in tuple(self._open.values()):
            if not exchange.is_answered:
                exchange.cancel()
                exchange.put(event)

    def _forget(self, exchange: Exchange) -> None:
        self._open.pop(exchange.id, None)
        if not self._open:
            self.busy.clear()
            self.idle.set()


class Exchange:
    """One request and the events about it. A context manager: leaving it early cancels the request.

    It ends when the last event arrives, whenever that is read: a slow reader does not keep the worker busy.
    """

    def __init__(
        self,
        number: int,
        answer: type[Event],
        *,
        send: Callable[[Request], None],
        on_end: Callable[[Exchange], None],
    ) -> None:
        self.id = number
        self.is_answered = False
        """Something was heard about it."""
        self._answer = answer
        self._send = send
        self._on_end = on_end
        self._has_ended = False
        self._events: asyncio.Queue[AnyEvent | WorkerExit] = asyncio.Queue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def send(self, request: Request) -> None:
        """Send `request` under this exchange's id."""
        self._send(replace(request, id=self.id))

    def cancel(self) -> None:
        """Ask the worker to end the request; it still answers."""
        if not self._has_ended:
            self._send(Cancel(target=self.id))

    def close(self) -> None:
        self.cancel()
        self._end()

    def put(self, event: AnyEvent | WorkerExit) -> None:
        self.is_answered = True
        self._events.put_nowait(event)
        if isinstance(event, self._answer | Failed | WorkerExit):
            self._end()

    async def receive(self) -> AnyEvent:
        """Return the next event. Raise `EngineCrashed` or `EngineHung` when none will come."""
        event = await self._events.get()
        if isinstance(event, WorkerExit):
            raise event.error()
        return event

    def _end(self) -> None:
        self._has_ended = True
        self._on_end(self)


async def ending(exchange: Exchange, answer: type[AnswerT], tell: StatusListener) -> AnswerT:
    """Return the event that ends `exchange`; `tell` gets what comes before. Raise `EdgeappError`."""
    while True:
        match await exchange.receive():
            case Failed() as failed:
                raise from_code(failed.code, failed.message, failed.hint)
            case event if isinstance(event, answer):
                return event
            case Heartbeat():
                continue
            case Progress() | Notice() | Memory() | ExpertUsage() as status:
                tell(status)
            case other:
                raise EngineError(f"The engine gave an unexpected answer: {type(other).__name__}.")

"""A running answer. One that was lost with its worker before anything was sent is asked once more."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from edgeapp.errors import EdgeappError, EngineCrashed, EngineHung
from edgeapp.protocol import (
    AnyEvent,
    Delta,
    Done,
    ExpertUsage,
    Failed,
    Generate,
    Memory,
    Notice,
    Progress,
    ToolCallDelta,
    never_begun,
)
from edgeapp.runtime.cleaning import failed
from edgeapp.runtime.start import result_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from edgeapp.runtime.client import GenerationEvent
    from edgeapp.runtime.exchange import Exchange
    from edgeapp.runtime.keeper import EngineKeeper

MAX_ATTEMPTS = 2
"""A request that kills two workers is not given a third."""


class WorkerGeneration:
    """See `edgeapp.runtime.client.Generation`."""

    def __init__(self, keeper: EngineKeeper, request: Generate) -> None:
        self._keeper = keeper
        self._request = request
        self._cancelled = asyncio.Event()
        self._exchange: Exchange | None = None
        self._n_attempts = 0
        self._has_told = False
        """Something of the answer has reached the reader."""

    def cancel(self) -> None:
        self._cancelled.set()
        if self._exchange is not None:
            self._exchange.cancel()

    async def __aiter__(self) -> AsyncIterator[GenerationEvent]:
        try:
            while True:
                event = await self._next()
                if isinstance(event, Done | Failed):
                    self._leave()
                    yield event
                    return
                yield event
        finally:
            self._leave()

    async def _next(self) -> GenerationEvent:
        while True:
            try:
                exchange = self._exchange or await self._begin()
                if exchange is None:
                    return never_begun()
                event = self._take(await exchange.receive())
            except (EngineCrashed, EngineHung) as death:
                if not self._may_repeat():
                    return failed(death)
                self._leave()
            except EdgeappError as problem:
                return failed(problem)
            else:
                if event is not None:
                    return event

    async def _begin(self) -> Exchange | None:
        """Send the request to a worker that has the model; None when the answer was cancelled first."""
        while not self._cancelled.is_set():
            await self._wait_for_engine()
            worker = self._keeper.worker
            if worker is not None and not self._cancelled.is_set():
                self._exchange = worker.exchanges.open(Done)
                self._exchange.send(self._request)
                self._n_attempts += 1
                return self._exchange
        return None

    async def _wait_for_engine(self) -> None:
        """Return when the engine is up, or the answer is cancelled. Raise `EdgeappError`."""
        starting = self._keeper.wanted()
        cancelled = asyncio.create_task(self._cancelled.wait())
        try:
            await asyncio.wait({starting, cancelled}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            cancelled.cancel()
        if not self._cancelled.is_set():
            result_of(starting)

    def _take(self, event: AnyEvent) -> GenerationEvent | None:
        match event:
            case Delta() | ToolCallDelta():
                self._has_told = True
                return event
            case Done() | Failed():
                self._keeper.answered()
                return event
            case Progress():
                return event
            case Memory() | ExpertUsage() | Notice():
                self._keeper.tell(event)
                return None
            case _:
                return None

    def _may_repeat(self) -> bool:
        """Tell whether the request can be sent again without the reader seeing anything twice."""
        return self._exchange is not None and not self._has_told and self._n_attempts < MAX_ATTEMPTS

    def _leave(self) -> None:
        """Let go of the worker, which stops when the answer has not ended."""
        if self._exchange is not None:
            self._exchange.close()
            self._exchange = None

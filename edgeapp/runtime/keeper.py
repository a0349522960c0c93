"""Keep one engine worker with one model loaded: start it, start it again when it dies, or say why not.

Knows what was loaded and how often that went wrong, nothing of answers.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

from edgeapp.errors import (
    EdgeappError,
    EngineCrashed,
    EngineError,
    EngineHung,
    LoadFailed,
    NotEnoughMemory,
)
from edgeapp.protocol import AnyEvent, ExpertUsage, Load, Loaded, Memory, Notice, Progress, Request
from edgeapp.runtime.client import EngineDown, StatusEvent, StatusListener
from edgeapp.runtime.exchange import ending
from edgeapp.runtime.quarantine import Deaths, RestartPolicy
from edgeapp.runtime.standing import StandingRequests
from edgeapp.runtime.supervisor import WorkerProcess
from edgeapp.runtime.tighter import describe, tighter

if TYPE_CHECKING:
    from edgeapp.runtime.watchdog import Patience
    from edgeapp.runtime.worker_exit import WorkerExit


class EngineKeeper:
    """At most one worker at a time; `worker` is the one that has the model loaded."""

    def __init__(self, load: Load, *, patience: Patience, policy: RestartPolicy) -> None:
        self._load = self._planned = load
        self._patience = patience
        self._listeners: list[StatusListener] = []
        self._deaths = Deaths(policy)
        self._standing = StandingRequests()
        self._n_tightened = 0
        self._tightened = ""
        """A sentence about what was given up, until it was told."""
        self._starting: asyncio.Task[Loaded] | None = None
        self._wanted = asyncio.Event()
        """Somebody asks for the engine: a start that pauses after a crash goes on at once."""
        self._closed = False
        self._process: WorkerProcess | None = None
        self.worker: WorkerProcess | None = None

    @property
    def worker_pid(self) -> int | None:
        """Of the worker that serves, or still loads."""
        return self._process.pid if self._process else None

    def watch(self, listener: StatusListener) -> None:
        self._listeners.append(listener)

    def tell(self, event: StatusEvent) -> None:
        for listener in self._listeners:
            listener(event)

    def wanted(self) -> asyncio.Task[Loaded]:
        """Bring the engine up on somebody's behalf, without a pause. Await the task with `outcome`.

        A finished task counts while its worker lives. Raise `EngineQuarantined`, or `EngineCrashed` when
        closed.
        """
        self._wanted.set()
        return self._bring_up()

    async def loaded_worker(self) -> WorkerProcess:
        """Return the worker once it has the model. Raise `EdgeappError`."""
        while True:
            await outcome(self.wanted())
            if self.worker is not None:
                return self.worker

    def answered(self) -> None:
        """A request came to its end."""
        self._deaths.answered()

    def done(self, request: Request) -> None:
        """Remember what a later worker must be told too."""
        self._standing.done(request)
        self._deaths.answered()

    def forgive(self) -> None:
        """Forget what went wrong: the next start is as it was planned."""
        self._deaths.forgive()
        self._planned, self._n_tightened, self._tightened = self._load, 0, ""

    async def aclose(self) -> None:
        self._closed = True
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        worker, self.worker, self._process = self.worker, None, None
        if worker is not None:
            await worker.shutdown()

    # Start -----------------------------------------------------------------------------------------------

    def _bring_up(self) -> asyncio.Task[Loaded]:
        if self._closed:
            raise EngineCrashed("The engine has been closed.")
        if self._starting is None or (self._starting.done() and self.worker is None):
            self._refuse_in_quarantine()
            self._starting = asyncio.create_task(self._start_until_loaded())
            self._starting.add_done_callback(_retrieve)
        return self._starting

    async def _start_until_loaded(self) -> Loaded:
        while True:
            await self._pause()
            try:
                return await self._start_and_load()
            except (EngineCrashed, EngineHung) as death:
                if _is_refusal(death):
                    self._deaths.add(_now_s(), death.message)
                    hint = "The model file is damaged or not supported."
                    raise LoadFailed(death.message, hint=hint) from death
                self._died(death)
                self._refuse_in_quarantine()
            except NotEnoughMemory as refusal:
                if not self._tighten():
                    raise
                self.tell(EngineDown(reason=refusal.message, hint=self._tightened, retry_in_s=0.0))

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._deaths.pause_s):
                await self._wanted.wait()

    async def _start_and_load(self) -> Loaded:
        self.tell(Progress(phase="starting", fraction=0.0))
        worker = self._process = await WorkerProcess.start(
            on_event=self._on_event, on_exit=self._on_exit, patience=self._patience
        )
        try:
            loaded = await self._loaded(worker)
            await self._repeat_standing(worker)
            worker.raise_if_gone()
        except BaseException:
            self._process = None
            await worker.kill()
            raise
        self.worker = worker
        self.tell(loaded)
        if self._tightened:
            self.tell(Notice(code="started_tighter", message=self._tightened))
            self._tightened = ""
        return loaded

    async def _loaded(self, worker: WorkerProcess) -> Loaded:
        with worker.exchanges.open(Loaded) as exchange:
            exchange.send(self._planned)
            loaded = await ending(exchange, Loaded, self.tell)
        worker.loaded()
        return loaded

    async def _repeat_standing(self, worker: WorkerProcess) -> None:
        """Tell a new worker what the last one was told. What it cannot do is given up with a notice."""
        for request, answer in self._standing:
            try:
                with worker.exchanges.open(answer) as exchange:
                    exchange.send(request)
                    await ending(exchange, answer, self.tell)
            except (EngineCrashed, EngineHung):
                raise
            except EdgeappError as problem:
                self._standing.refused(request)
                self.tell(Notice(code="not_restored", message=problem.message, hint=problem.hint))

    # Death -----------------------------------------------------------------------------------------------

    def _on_event(self, event: AnyEvent) -> None:
        if isinstance(event, Notice | Memory | ExpertUsage):
            self.tell(event)

    def _on_exit(self, worker_exit: WorkerExit) -> None:
        """Start a loaded worker again; the end of one that still loads is seen by `_start_until_loaded`."""
        if self._closed or self.worker is None:
            return
        self.worker = self._process = None
        self._died(worker_exit.error())
        if self._deaths.quarantined(_now_s()) is None:
            self._bring_up()

    def _died(self, death: EngineError) -> None:
        """Draw the conclusions from a death, and tell them."""
        self._deaths.add(_now_s(), death.message)
        self._wanted.clear()
        quarantined = self._deaths.quarantined(_now_s())
        if quarantined is not None:
            error = quarantined.error(_now_s())
            self.tell(EngineDown(reason=error.message, hint=error.hint, retry_in_s=None))
            return
        tightened = isinstance(death, EngineCrashed) and death.out_of_memory and self._tighten()
        hint = f"{death.hint} {self._tightened}" if tightened else death.hint
        self.tell(EngineDown(reason=death.message, hint=hint, retry_in_s=self._deaths.pause_s))

    def _refuse_in_quarantine(self) -> None:
        quarantined = self._deaths.quarantined(_now_s())
        if quarantined is not None:
            raise quarantined.error(_now_s())

    def _tighten(self) -> bool:
        """Plan the next start with less memory; return False when nothing is left to give up."""
        tight = tighter(self._load, self._n_tightened + 1)
        if tight is None:
            return False
        self._planned, self._n_tightened = tight, self._n_tightened + 1
        self._tightened = f"To need less memory, the engine now runs with {describe(self._load, tight)}."
        return True


async def outcome(starting: asyncio.Task[Loaded]) -> Loaded:
    """Wait for a start that others wait for too. Raise what it raised, `EngineCrashed` when it was closed."""
    await asyncio.wait({starting})
    return result_of(starting)


def result_of(starting: asyncio.Task[Loaded]) -> Loaded:
    """Return what a finished start came to; see `outcome`."""
    if starting.cancelled():
        raise EngineCrashed("The engine has been closed.")
    return starting.result()


def _is_refusal(death: EngineError) -> bool:
    """Tell whether a failed assertion ended a load: it comes from the file and would come again."""
    return (
        isinstance(death, EngineCrashed) and death.returncode == -signal.SIGABRT and not death.out_of_memory
    )


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _retrieve(task: asyncio.Task[Loaded]) -> None:
    """Mark a background restart's failure as seen; whoever asks next gets it again from a new try."""
    if not task.cancelled():
        task.exception()

"""Keep one engine worker with one model loaded: start it, start it again when it dies, or say why not.

Also ends it on purpose, so that others get the memory, and brings it up again when somebody asks. Knows how
to load and how often that went wrong, nothing of answers.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from msgspec.structs import replace

from edgeapp.errors import DeviceLost, EdgeappError, EngineCrashed, EngineError, EngineHung, NotEnoughMemory
from edgeapp.protocol import AnyEvent, ExpertUsage, Load, Loaded, Memory, Notice, Request
from edgeapp.runtime import start
from edgeapp.runtime.client import Released, StatusEvent, StatusListener
from edgeapp.runtime.gpu_loss import GpuLoss
from edgeapp.runtime.handover import hand_over
from edgeapp.runtime.parking import Parking
from edgeapp.runtime.setbacks import Setbacks
from edgeapp.runtime.standing import StandingRequests
from edgeapp.runtime.tighter import Ladder

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from typing import Literal

    from edgeapp.runtime.manners import Manners
    from edgeapp.runtime.quarantine import RestartPolicy
    from edgeapp.runtime.supervisor import WorkerProcess
    from edgeapp.runtime.watchdog import Patience
    from edgeapp.runtime.worker_exit import WorkerExit


class EngineKeeper:
    """At most one worker at a time; `worker` is the one that has the model loaded and takes requests."""

    def __init__(
        self, ladder: Ladder, *, patience: Patience, policy: RestartPolicy, manners: Manners
    ) -> None:
        self._patience = patience
        self._manners = manners
        self._listeners: list[StatusListener] = []
        self._setbacks = Setbacks(
            ladder,
            policy=policy,
            loss=GpuLoss(allow_cpu=manners.allow_cpu, replan=manners.replan),
            tell=self.tell,
        )
        self._standing = StandingRequests()
        self._parking = Parking()
        self._turn = asyncio.Lock()
        """Held by whoever starts or ends a worker."""
        self._starting: asyncio.Task[Loaded] | None = None
        """The last start; those before it may still run."""
        self._starts: set[asyncio.Task[Loaded]] = set()
        self._idling: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        """Somebody asks for the engine: a start that pauses after a crash goes on at once."""
        self._closed = False
        self._process: WorkerProcess | None = None
        self.worker: WorkerProcess | None = None
        self.is_released = False

    @property
    def worker_pid(self) -> int | None:
        """Of the worker that serves, still loads, or is being ended."""
        return self._process.pid if self._process else None

    @property
    def load(self) -> Load:
        """How the model is loaded, or will be."""
        return self._setbacks.load

    @property
    def loaded(self) -> Loaded | None:
        """What the worker that serves said when it had loaded the model."""
        is_up = self.worker is not None and self._starting is not None and self._starting.done()
        return self._starting.result() if is_up and self._starting is not None else None

    @property
    def is_busy(self) -> bool:
        """Whether the worker owes somebody an answer."""
        return self._process is not None and self._process.exchanges.busy.is_set()

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
            await start.outcome(self.wanted())
            if self.worker is not None:
                return self.worker

    def answered(self) -> None:
        """A request came to its end."""
        self._setbacks.answered()

    def done(self, request: Request) -> None:
        """Remember what a later worker must be told too."""
        self._standing.done(request)
        self._setbacks.answered()

    def forgive(self) -> None:
        """Forget what went wrong: the next start is as it was planned."""
        self._setbacks.forgive()

    async def aclose(self) -> None:
        self._closed = True
        await self._give_up_starts()
        self._stop_idling()
        self.worker = None
        if self._process is not None:
            await self._process.shutdown()
        self._process = None
        self._parking.clear()

    # Ending on purpose -----------------------------------------------------------------------------------

    async def release(self, why: Literal["asked", "idle"] = "asked") -> None:
        """Free all memory; see `EngineClient.release`."""
        await self._give_up_starts()
        async with self._turn:
            if self._closed or self.is_released:
                return
            self._starting = None
            n_conversations = await self._end_worker(finish_s=0.0)
            self.is_released = True
            self.tell(Released(n_conversations=n_conversations, why=why))

    async def change(self, load: Load, fallbacks: Sequence[Load], *, finish_s: float) -> Loaded:
        """Load anew; see `EngineClient.change`."""
        if self._closed:
            raise EngineCrashed("The engine has been closed.")
        return await start.outcome(self._begin(self._change(Ladder(load, fallbacks), finish_s)))

    async def lose_device(self, reason: str) -> None:
        """The system says that the GPU has gone: end the worker that uses it. `reason` is a sentence."""
        if self._process is not None and self._setbacks.load.device:
            self._setbacks.loss.is_certain = True
            await self._process.kill(reason, is_device_lost=True)

    async def _change(self, ladder: Ladder, finish_s: float) -> Loaded:
        async with self._turn:
            await self._end_worker(finish_s=finish_s)
            before, self.is_released = self._setbacks.ladder, False
            try:
                self._setbacks.use(ladder)
                return await self._start_until_loaded()
            except EdgeappError:
                self._setbacks.use(before)
                raise

    async def _end_worker(self, *, finish_s: float) -> int:
        """End the worker, if there is one; return how many conversations wait for the next."""
        self._stop_idling()
        worker, self.worker = self.worker, None
        if worker is None:
            return 0
        try:
            parked = await hand_over(worker, self._parking, finish_s=finish_s, tell=self.tell)
        finally:
            self._process = None
        return parked.n_conversations

    def _stop_idling(self) -> None:
        if self._idling is not None:
            self._idling.cancel()
            self._idling = None

    async def _release_when_idle(self, worker: WorkerProcess) -> None:
        await worker.exchanges.idle_for(self._manners.idle_release_s)
        if self.worker is worker:
            self._idling = None  # which would be cancelled otherwise
            await self.release("idle")

    # Start -----------------------------------------------------------------------------------------------

    def _bring_up(self) -> asyncio.Task[Loaded]:
        if self._closed:
            raise EngineCrashed("The engine has been closed.")
        if self._starting is None or (self._starting.done() and self.worker is None):
            self._setbacks.refuse_in_quarantine()
            return self._begin(self._start())
        return self._starting

    def _begin(self, starting: Coroutine[None, None, Loaded]) -> asyncio.Task[Loaded]:
        task = self._starting = asyncio.create_task(starting)
        self._starts.add(task)
        task.add_done_callback(self._starts.discard)
        task.add_done_callback(start.retrieve)
        return task

    async def _give_up_starts(self) -> None:
        """End all starts that are not finished."""
        unfinished = tuple(self._starts)
        for task in unfinished:
            task.cancel()
        if unfinished:
            await asyncio.wait(unfinished)

    async def _start(self) -> Loaded:
        async with self._turn:
            if self.is_released:
                await self._plan_again()
            return await self._start_until_loaded()

    async def _plan_again(self) -> None:
        """Plan for the memory that is free now, which may be more or less than before the release."""
        if self._manners.replan is None:
            self._setbacks.ladder.start_again()
        else:
            self._setbacks.use(Ladder(*await self._manners.replan()))
        self.is_released = False

    async def _start_until_loaded(self) -> Loaded:
        self._setbacks.begin()
        while True:
            await self._pause()
            try:
                return await self._start_and_load()
            except DeviceLost as loss:
                await self._setbacks.go_on_without(loss)
            except (EngineCrashed, EngineHung) as death:
                if start.is_refusal(death):
                    self._setbacks.count(death)
                    raise start.refused(death) from death
                self._died(death)
                self._setbacks.refuse_in_quarantine()
            except NotEnoughMemory as refusal:
                self._setbacks.step_down(refusal)

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._setbacks.pause_s):
                await self._wanted.wait()

    async def _start_and_load(self) -> Loaded:
        load = self._setbacks.load
        if self._parking.folder is not None:
            load = replace(load, parked_folder=str(self._parking.folder))
        process = start.Start(
            load=load,
            loss=self._setbacks.loss,
            standing=self._standing,
            patience=self._patience,
            tell=self.tell,
        )
        worker, loaded = await process.run(
            on_process=self._on_process, on_event=self._on_event, on_exit=self._on_exit
        )
        self.worker = worker
        self.tell(loaded)
        self._setbacks.loaded()
        if self._manners.idle_release_s > 0:
            self._idling = asyncio.create_task(self._release_when_idle(worker))
        return loaded

    def _on_process(self, process: WorkerProcess | None) -> None:
        self._process = process

    # Death -----------------------------------------------------------------------------------------------

    def _on_event(self, event: AnyEvent) -> None:
        if isinstance(event, Notice | Memory | ExpertUsage):
            self.tell(event)

    def _on_exit(self, worker_exit: WorkerExit) -> None:
        """Start a loaded worker again; the end of one that still loads is seen by `_start_until_loaded`."""
        if self._closed or self.worker is None:
            return
        self.worker = self._process = None
        self._stop_idling()
        self._died(worker_exit.error())
        if not self._setbacks.is_quarantined:
            self._bring_up()

    def _died(self, death: EngineError) -> None:
        self._wanted.clear()
        self._setbacks.died(death)

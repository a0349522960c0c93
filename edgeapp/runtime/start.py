"""One start of a worker: greeting, load, and what earlier workers were told. Knows no other start."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeapp.errors import (
    DeviceLost,
    EdgeappError,
    EngineCrashed,
    EngineError,
    EngineHung,
    LoadFailed,
)
from edgeapp.protocol import Load, Loaded, Notice, Progress
from edgeapp.runtime.exchange import ending
from edgeapp.runtime.supervisor import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeapp.protocol import AnyEvent
    from edgeapp.runtime.client import StatusListener
    from edgeapp.runtime.gpu_loss import GpuLoss
    from edgeapp.runtime.standing import StandingRequests
    from edgeapp.runtime.watchdog import Patience
    from edgeapp.runtime.worker_exit import WorkerExit


@dataclass(frozen=True, kw_only=True)
class Start:
    """Everything that a start depends on."""

    load: Load
    loss: GpuLoss
    standing: StandingRequests
    patience: Patience
    tell: StatusListener

    async def run(
        self,
        *,
        on_process: Callable[[WorkerProcess | None], None],
        on_event: Callable[[AnyEvent], None],
        on_exit: Callable[[WorkerExit], None],
    ) -> tuple[WorkerProcess, Loaded]:
        """Return a worker that has the model. Raise `EdgeappError`; then none is left.

        `on_process` is told of the worker while it still loads, and of None when it was ended.
        """
        self.tell(Progress(phase="starting", fraction=0.0))
        worker = await self._process(on_event, on_exit)
        on_process(worker)
        try:
            self.loss.check(self.load, worker.devices)
            loaded = await self._loaded(worker)
            await self._repeat_standing(worker)
            worker.raise_if_gone()
        except BaseException:
            on_process(None)
            await worker.kill()
            raise
        self.loss.loaded(self.load)
        return worker, loaded

    async def _process(
        self, on_event: Callable[[AnyEvent], None], on_exit: Callable[[WorkerExit], None]
    ) -> WorkerProcess:
        try:
            return await WorkerProcess.start(
                on_event=on_event,
                on_exit=on_exit,
                patience=self.patience,
                has_gpu=not self.loss.is_without,
            )
        except EngineHung as hang:
            if self.loss.has_worked(self.load):
                raise DeviceLost(
                    f"The GPU {self.load.device} does not answer any more.", hint=hang.hint
                ) from hang
            raise

    async def _loaded(self, worker: WorkerProcess) -> Loaded:
        with worker.exchanges.open(Loaded) as exchange:
            exchange.send(self.load)
            loaded = await ending(exchange, Loaded, self.tell)
        worker.loaded()
        return loaded

    async def _repeat_standing(self, worker: WorkerProcess) -> None:
        """Tell a new worker what the last one was told. What it cannot do is given up with a notice."""
        for request, answer in self.standing:
            try:
                with worker.exchanges.open(answer) as exchange:
                    exchange.send(request)
                    await ending(exchange, answer, self.tell)
            except (EngineCrashed, EngineHung):
                raise
            except EdgeappError as problem:
                self.standing.refused(request)
                self.tell(Notice(code="not_restored", message=problem.message, hint=problem.hint))


def is_refusal(death: EngineError) -> bool:
    """Tell whether a failed assertion ended a load: it comes from the file and would come again."""
    return (
        isinstance(death, EngineCrashed) and death.returncode == -signal.SIGABRT and not death.out_of_memory
    )


def refused(death: EngineError) -> LoadFailed:
    return LoadFailed(death.message, hint="The model file is damaged or not supported.")


async def outcome(starting: asyncio.Task[Loaded]) -> Loaded:
    """Wait for a start that others wait for too. Raise what it raised, `EngineCrashed` if it was given up."""
    await asyncio.wait({starting})
    return result_of(starting)


def result_of(starting: asyncio.Task[Loaded]) -> Loaded:
    """Return what a finished start came to; see `outcome`."""
    if starting.cancelled():
        raise EngineCrashed("The engine has been closed.", hint="The next message starts it again.")
    return starting.result()


def retrieve(task: asyncio.Task[Loaded]) -> None:
    """Mark a background restart's failure as seen; whoever asks next gets it again from a new try."""
    if not task.cancelled():
        task.exception()

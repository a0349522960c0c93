"""Ask the engine about this machine and about placements, in a worker that lives for one question.

A driver that hangs or a server that is lost takes that worker with it and nobody else.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from edgeapp.errors import EngineCrashed, EngineHung
from edgeapp.protocol import MachineMeasured, MeasureMachine, Probe, Probed
from edgeapp.runtime.exchange import AnswerT, ending
from edgeapp.runtime.supervisor import WorkerProcess
from edgeapp.runtime.watchdog import Patience

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from edgeapp.protocol import BufferUse, Device, ProbeShape, Request

START_TIMEOUT_S = 30.0
"""A CUDA driver that starts anew takes several seconds."""
PROBE_TIMEOUT_S = 60.0
"""Shapes take milliseconds each, but the first read of a header can wait for a sleeping disk."""
MEASURE_TIMEOUT_S = 60.0


class Questions:
    """A worker that has loaded nothing, and can be asked several things."""

    def __init__(self, worker: WorkerProcess) -> None:
        self._worker = worker

    @property
    def devices(self) -> tuple[Device, ...]:
        """What ggml can compute on, the CPU included, with free and total bytes."""
        return _devices(self._worker)

    async def probe(
        self, path: Path, shapes: Sequence[ProbeShape], *, n_threads: int
    ) -> tuple[tuple[BufferUse, ...], ...]:
        """Return what each shape takes of the devices; nothing where llama.cpp refuses it.

        Raise `UnsupportedModel`, `LoadFailed` or `UsageError` (a device that there is not), `EngineError`
        when the engine dies or hangs.
        """
        request = Probe(path=str(path), n_threads=n_threads, shapes=tuple(shapes))
        return (await _ask(self._worker, request, Probed, timeout_s=PROBE_TIMEOUT_S)).shapes


@asynccontextmanager
async def questions() -> AsyncIterator[Questions]:
    """Start a worker to be asked, and end it. Raise `EngineError`."""
    async with _worker() as worker:
        yield Questions(worker)


async def list_devices() -> tuple[Device, ...]:
    """Return what ggml can compute on, the CPU included, with free and total bytes. Raise `EngineError`."""
    async with questions() as asked:
        return asked.devices


async def probe(
    path: Path, shapes: Sequence[ProbeShape], *, n_threads: int
) -> tuple[tuple[Device, ...], tuple[tuple[BufferUse, ...], ...]]:
    """Return the devices, and for each shape what it takes of them. See `Questions.probe`."""
    async with questions() as asked:
        return asked.devices, await asked.probe(path, shapes, n_threads=n_threads)


async def measure_machine(n_threads: int, device: str = "") -> MachineMeasured:
    """Measure memory and computing of the host with up to `n_threads`, and of the GPU `device`, if any.

    Takes all cores for several seconds. Cancelling ends it at once. Raise `NotEnoughMemory`, `UsageError`,
    `EngineError`.
    """
    async with _worker() as worker:
        request = MeasureMachine(n_threads=n_threads, device=device)
        return await _ask(worker, request, MachineMeasured, timeout_s=MEASURE_TIMEOUT_S)


@asynccontextmanager
async def _worker() -> AsyncIterator[WorkerProcess]:
    async with _limited(START_TIMEOUT_S):
        worker = await WorkerProcess.start(
            on_event=lambda _event: None, on_exit=lambda _exit: None, patience=Patience()
        )
    try:
        yield worker
    finally:
        await worker.kill("The question has been answered.")


async def _ask(
    worker: WorkerProcess, request: Request, answer: type[AnswerT], *, timeout_s: float
) -> AnswerT:
    async with _limited(timeout_s):
        with worker.exchanges.open(answer) as exchange:
            exchange.send(request)
            return await ending(exchange, answer, lambda _status: None)


@asynccontextmanager
async def _limited(timeout_s: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError as problem:
        raise EngineHung(
            f"The engine did not answer within {timeout_s:g} s and has been ended.",
            hint="A GPU's driver or an RPC server may hang: try without it.",
        ) from problem


def _devices(worker: WorkerProcess) -> tuple[Device, ...]:
    if worker.hello is None:
        raise EngineCrashed("The engine has not said what it can compute on.")
    return worker.hello.devices

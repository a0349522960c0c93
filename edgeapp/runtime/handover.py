"""End a worker so that the next one can go on: let answers finish, park the conversations, shut it down."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from edgeapp.errors import EdgeappError
from edgeapp.protocol import Notice, Park, Parked
from edgeapp.runtime import parking
from edgeapp.runtime.exchange import ending

if TYPE_CHECKING:
    from pathlib import Path

    from edgeapp.runtime.client import StatusListener
    from edgeapp.runtime.exchange import Exchanges
    from edgeapp.runtime.parking import Parking
    from edgeapp.runtime.supervisor import WorkerProcess

CANCEL_S = 1.0
"""A cancelled answer ends between two decodes, or in the middle of one where llama.cpp can be interrupted."""
PARK_S = 30.0
"""A worker that takes longer is ended without: then conversations are read again from their text."""
SHUTDOWN_S = 0.5
"""Nothing is left to be lost."""

NOTHING = Parked(n_conversations=0, bytes=0)


async def hand_over(worker: WorkerProcess, lot: Parking, *, finish_s: float, tell: StatusListener) -> Parked:
    """End `worker` and leave its conversations in `lot`; return how many there are.

    Answers that run have `finish_s` seconds to end by themselves, then they end as cancelled.
    """
    try:
        if await _is_idle(worker.exchanges, finish_s=finish_s):
            return await _parked(worker, lot, tell)
        return NOTHING
    finally:
        await worker.shutdown(within_s=SHUTDOWN_S)


async def _is_idle(exchanges: Exchanges, *, finish_s: float) -> bool:
    """Wait until the worker owes nobody an answer; False when it does not come to an end."""
    if await _idle_within(exchanges, finish_s):
        return True
    exchanges.cancel_all()
    return await _idle_within(exchanges, CANCEL_S)


async def _idle_within(exchanges: Exchanges, wait_s: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            await exchanges.idle.wait()
    return exchanges.idle.is_set()


async def _parked(worker: WorkerProcess, lot: Parking, tell: StatusListener) -> Parked:
    try:
        folder = lot.new()
    except OSError as problem:
        tell(_not_kept(f"{problem.strerror or problem}"))
        return NOTHING
    try:
        async with asyncio.timeout(PARK_S):
            parked = await _ask(worker, folder, tell)
    except (EdgeappError, TimeoutError) as problem:
        parking.remove(folder)
        tell(_not_kept(problem.message if isinstance(problem, EdgeappError) else "it takes too long"))
        return NOTHING
    lot.keep(folder)
    return parked


async def _ask(worker: WorkerProcess, folder: Path, tell: StatusListener) -> Parked:
    with worker.exchanges.open(Parked) as exchange:
        exchange.send(Park(folder=str(folder)))
        return await ending(exchange, Parked, tell)


def _not_kept(problem: str) -> Notice:
    return Notice(
        code="not_parked",
        message=f"The computed state of the conversations could not be kept: {problem.rstrip('.')}.",
        hint="Nothing is lost: a conversation that is continued is read again from its text.",
    )

"""Load a model as planned, read prompts and write answers, and say how fast that was.

One worker at a time. A try that is clearly slower than the best so far is not repeated.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from edgeapp.bench.speed import prompts, read_and_write
from edgeapp.errors import NotEnoughMemory
from edgeapp.profiles.answer_watch import AnswerWatch
from edgeapp.protocol import Notice
from edgeapp.runtime.client import EngineDown, StatusEvent
from edgeapp.runtime.quarantine import RestartPolicy
from edgeapp.runtime.worker_client import WorkerClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from edgeapp.placement.plan import PlacementPlan
    from edgeapp.placement.wishes import Workload
    from edgeapp.profiles.answer_watch import Expected
    from edgeapp.profiles.predictions import Record
    from edgeapp.protocol import Done, Load

MAX_REPEATS = 3
CLEARLY_SLOWER = 1.15
"""A try whose first repeat takes this many times as long as the best one has lost."""
_WARM_UP_PROMPT, _WARM_UP_ANSWER = 128, 8
"""Enough tokens that nearly every expert is used once, and its weights are in memory."""


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A plan, and the request that carries it out."""

    expected: Expected
    load: Load

    @property
    def plan(self) -> PlacementPlan:
        return self.expected.plan


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """What every try does: `n_prompt` tokens of `text` are read, `n_decode` written."""

    text: str
    n_prompt: int
    n_decode: int
    workload: Workload
    """The request that is reckoned with; it may be longer than what is measured."""


@dataclass(frozen=True, kw_only=True)
class Actual:
    """What was measured: medians, tokens per second, and the seconds of one request of the workload."""

    prefill_tps: float
    decode_tps: float
    request_s: float
    n_repeats: int


async def measure(
    placed: Placed, exercise: Exercise, *, best_s: float | None, enough_s: float
) -> tuple[Actual, Record | None]:
    """Return how fast `placed` is, and the record of it.

    `best_s` is the best request so far; after `enough_s` seconds, loading included, nothing is repeated.

    Raise `NotEnoughMemory` when it could only be loaded otherwise, and what the engine raises.
    """
    started_s = time.monotonic()
    async with _as_planned(placed.load) as client:
        parts = await prompts(client, exercise.text, n_tokens=exercise.n_prompt, count=MAX_REPEATS + 1)
        warm_up = parts[0][: len(parts[0]) * _WARM_UP_PROMPT // max(exercise.n_prompt, _WARM_UP_PROMPT)]
        await read_and_write(client, warm_up, min(_WARM_UP_ANSWER, exercise.n_decode))
        watch = AnswerWatch(placed.expected, client.worker_pid or 0)
        answers: list[Done] = []
        for part in parts[1:]:
            answers.append(await read_and_write(client, part, exercise.n_decode))
            actual = _actual(answers, exercise.workload)
            has_lost = best_s is not None and actual.request_s > best_s * CLEARLY_SLOWER
            if has_lost or time.monotonic() - started_s > enough_s:
                break
        return actual, _record(watch, actual, exercise)


def _actual(answers: list[Done], workload: Workload) -> Actual:
    prefill_tps = median(done.timings.prompt_tps for done in answers)
    decode_tps = median(done.timings.decode_tps for done in answers)
    return Actual(
        prefill_tps=prefill_tps,
        decode_tps=decode_tps,
        request_s=workload.n_prompt / prefill_tps + workload.n_answer / decode_tps,
        n_repeats=len(answers),
    )


def _record(watch: AnswerWatch, actual: Actual, exercise: Exercise) -> Record | None:
    """A shorter prompt than the workload's is read at another rate than was predicted."""
    is_whole = 2 * exercise.n_prompt >= exercise.workload.n_prompt
    prefill_tps = actual.prefill_tps if is_whole else 0.0
    return watch.measured(decode_tps=actual.decode_tps, prefill_tps=prefill_tps, source="tune")


@asynccontextmanager
async def _as_planned(load: Load) -> AsyncIterator[WorkerClient]:
    """Yield an engine that was loaded as `load` says, or raise: another placement must not be measured."""
    client = WorkerClient(load, restarts=RestartPolicy(max_deaths=1))
    changed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def listen(event: StatusEvent) -> None:
        match event:
            case EngineDown(reason=reason) | Notice(code="started_tighter", message=reason):
                if not changed.done():
                    changed.set_result(reason)
            case _:
                pass

    client.watch(listen)
    loading = asyncio.ensure_future(client.load())
    try:
        await asyncio.wait((loading, changed), return_when=asyncio.FIRST_COMPLETED)
        if changed.done():
            raise NotEnoughMemory(changed.result())
        await loading
        yield client
    finally:
        loading.cancel()
        await client.aclose()

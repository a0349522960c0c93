"""Try the few best plans for real and keep the fastest, until the time is over or somebody stops it.

Knows neither terminal nor file: a `Planner` makes plans, whoever listens hears of every try.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from edgeapp.bench.speed import SPARE_TOKENS
from edgeapp.errors import EdgeappError
from edgeapp.profiles.likely_cause import likely_cause, was_crowded
from edgeapp.profiles.tuned import Choices
from edgeapp.tune.candidates import Cores, axes, describe, lengths
from edgeapp.tune.trials import Actual, Exercise, Placed, measure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.placement.wishes import Wishes
    from edgeapp.profiles.predictions import Record

_SHARE_OF_A_TRY = 1 / 8
"""Of the time, after which a try is not repeated: so at least the usual half a dozen is tried."""
MIN_GAIN = 0.03
"""By how much a try must beat the best one: repeats on a quiet machine differ by 1 to 2 %."""
Planner: TypeAlias = Callable[[Choices], Placed]
"""Plans with these choices where the user left them open. Raises `EdgeappError` when they do not fit."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One way to load the model. `actual` is None when it was not measured; `problem` says why."""

    choices: Choices
    placed: Placed | None
    actual: Actual | None
    record: Record | None = None
    problem: str = ""

    @property
    def name(self) -> str:
        return describe(self.choices)

    @property
    def cause(self) -> str:
        """Why it was slower or faster than predicted; empty when it was not."""
        return likely_cause(self.record) if self.record else ""

    @property
    def is_crowded(self) -> bool:
        """Other programs took CPU time meanwhile, which makes it hard to compare."""
        return self.record is not None and was_crowded(self.record.facts)


@dataclass(frozen=True, kw_only=True)
class Starting:
    """A try begins."""

    name: str
    left_s: float
    """Of the time that all tries have."""


TuneEvent: TypeAlias = Starting | Trial
Ended: TypeAlias = Literal["done", "time", "interrupted"]


class Tuning:
    """The tries of one model. What is known stays known when `run` is cancelled."""

    def __init__(
        self,
        planner: Planner,
        wishes: Wishes,
        *,
        cores: Cores,
        budget_s: float,
        text: str,
        listener: Callable[[TuneEvent], None],
    ) -> None:
        self._planner, self._wishes, self._cores = planner, wishes, cores
        self._ends_s = time.monotonic() + budget_s
        self._enough_s = budget_s * _SHARE_OF_A_TRY
        self._text, self._tell = text, listener
        self.exercise: Exercise | None = None
        """What every try does; known after the first plan."""
        self._longest_s = 0.0
        self.trials: list[Trial] = []
        self.ended: Ended = "interrupted"

    async def run(self) -> None:
        """Measure the plan, whatever it takes, then what may be faster while there is time.

        Raise what planning, loading or computing the planned placement raises; what fails later is a `Trial`
        with a problem.
        """
        planned = self._planner(Choices())
        self.exercise = self._exercise_for(planned)
        await self._measure(Choices(), planned)
        for axis in axes(planned.plan, self._wishes, cores=self._cores):
            for choices in axis.variants(self._best_choices):
                if self._is_over:
                    self.ended = "time"
                    return
                await self._try(choices)
        await self._confirm()
        self.ended = "done"

    async def _confirm(self) -> None:
        """Measure plan and winner again, now that the machine is as warm and as busy for both.

        The better of the plan's results counts and the worse of the winner's: what was luck does not win.
        """
        winner = self.best
        if winner is None or winner is self.trials[0] or self._is_over:
            return
        await self._try(Choices())
        self.trials[0] = _by_time(self.trials[0], self.trials.pop())[0]
        if self.best is winner and not self._is_over:
            await self._try(winner.choices)
            place = self.trials.index(winner)
            self.trials[place] = _by_time(winner, self.trials.pop())[1]

    # One try ---------------------------------------------------------------------------------------------

    async def _try(self, choices: Choices) -> None:
        placed = None
        try:
            placed = self._planner(choices)
            async with asyncio.timeout(self._left_s):
                await self._measure(choices, placed)
        except TimeoutError:
            self._add(Trial(choices=choices, placed=placed, actual=None, problem="no time left"))
        except EdgeappError as problem:
            self._add(Trial(choices=choices, placed=placed, actual=None, problem=problem.message))

    async def _measure(self, choices: Choices, placed: Placed) -> None:
        assert self.exercise is not None  # noqa: S101 - made from the first plan
        self._tell(Starting(name=describe(choices), left_s=self._left_s))
        started_s = time.monotonic()
        actual, record = await measure(placed, self.exercise, best_s=self._best_s, enough_s=self._enough_s)
        self._longest_s = max(self._longest_s, time.monotonic() - started_s)
        self._add(Trial(choices=choices, placed=placed, actual=actual, record=record))

    def _add(self, trial: Trial) -> None:
        self.trials.append(trial)
        self._tell(trial)

    # What is known ---------------------------------------------------------------------------------------

    @property
    def best(self) -> Trial | None:
        """The fastest; None before the plan was measured."""
        return fastest(self.trials)

    @property
    def _left_s(self) -> float:
        return max(self._ends_s - time.monotonic(), 0.0)

    @property
    def _is_over(self) -> bool:
        """Half of what the longest try took is too little for another one."""
        return self._left_s < self._longest_s / 2

    @property
    def _best_s(self) -> float | None:
        return self.best.actual.request_s if self.best and self.best.actual else None

    @property
    def _best_choices(self) -> Choices:
        return self.best.choices if self.best else Choices()

    def _exercise_for(self, planned: Placed) -> Exercise:
        workload = self._wishes.workload
        n_prompt, n_decode = lengths(
            workload,
            n_ctx=planned.load.n_ctx,
            prefill_tps=planned.plan.predicted.prefill_tps,
            spare=SPARE_TOKENS,
        )
        return Exercise(text=self._text, n_prompt=n_prompt, n_decode=n_decode, workload=workload)


def fastest(trials: Sequence[Trial]) -> Trial | None:
    """Return the first that none beats by `MIN_GAIN`, so that the plan, which is first, wins a near draw."""
    best: Trial | None = None
    best_s = math.inf
    for trial in trials:
        if trial.actual is not None and trial.actual.request_s < best_s * (1 - MIN_GAIN):
            best, best_s = trial, trial.actual.request_s
    return best


def _by_time(first: Trial, again: Trial) -> tuple[Trial, Trial]:
    """Return the faster and the slower of two measurements; one that failed does not count."""
    if first.actual is None or again.actual is None:
        return first, first
    return (first, again) if first.actual.request_s <= again.actual.request_s else (again, first)

"""The engine of a job: its client, what other programs see of it, and what watches over it while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.monitor.own_memory import OwnMemory
from edgeapp.monitor.running import RunningEngine
from edgeapp.monitor.samples import watch
from edgeapp.placement.budget import DEFAULT_RESERVE_BYTES, reserve_bytes
from edgeapp.profiles.answer_watch import AnswerRecorder
from edgeapp.protocol import Done, Notice
from edgeapp.runtime.steward import Steward
from edgeapp.runtime.worker_client import WorkerClient
from edgeapp.session.keeping import HistoryKeeper
from edgeapp.session.publishing import follow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.cli.job import Job
    from edgeapp.history import Database
    from edgeapp.protocol import Load
    from edgeapp.runtime.client import GenerationEvent

_LOOK_S = 1.0
"""Between two looks at memory."""


class JobEngine:
    """Nothing is started yet. `close` it at the end; whoever uses the client closes that.

    With `history` the conversations are kept there.
    """

    def __init__(self, job: Job, *, front_end: str, history: Database | None = None) -> None:
        self._choice = job.engine
        self.client = WorkerClient(
            job.engine.load,
            fallbacks=job.engine.fallbacks,
            replan=self.replan,
            idle_release_s=job.idle_release_s,
            allow_cpu=job.allow_cpu,
        )
        self._running = RunningEngine(front_end=front_end, model=job.model)
        follow(self.client, self._running)
        self._recorder = AnswerRecorder(job.engine.planned.expected, lambda: self.client.worker_pid)
        self._keeper = history and HistoryKeeper(history, model=job.model, on_problem=self._tell)
        self._describe()

    async def replan(self, *, max_vram_bytes: int | None = None) -> tuple[Load, Sequence[Load]]:
        """Plan the same model for the memory there is now. Raise `EdgeappError` when nothing fits."""
        self._choice = await self._choice.again(max_vram_bytes=max_vram_bytes)
        self._describe()
        return self._choice.load, self._choice.fallbacks

    async def watch_over(self) -> None:
        """Give way to other programs for as long as this runs."""
        own = OwnMemory()
        self.client.watch(own.observe)
        steward = Steward(self.client, self.replan, reserve_bytes=self._reserve_bytes())
        await steward.run(watch(own.look, _LOOK_S))

    def close(self) -> None:
        """Say nothing to other programs any more."""
        self._running.close()
        if self._keeper:
            self._keeper.close()

    def begin(self, text: str) -> None:
        """`text` is about to be asked: watch the machine during its answer."""
        self._recorder.begin()
        if self._keeper:
            self._keeper.begin(text)

    def observe(self, event: GenerationEvent) -> None:
        """Take in an event of the answer; at its end compare what was predicted with what came."""
        self._running.observe(event)
        if self._keeper:
            self._keeper.observe(event)
        if isinstance(event, Done) and not self._choice.n_expert_used:  # other experts, another speed
            self._recorder.end(event)

    def reset(self) -> None:
        """Another conversation begins."""
        if self._keeper:
            self._keeper.reset()

    def _tell(self, problem: str) -> None:
        self.client.tell(Notice(code="history", message=problem))

    def _describe(self) -> None:
        planned = self._choice.planned
        self._recorder.expected = planned.expected
        self._running.describe(planned.plan, planned.shape.expert_layers)

    def _reserve_bytes(self) -> int:
        planned = self._choice.planned
        return reserve_bytes(planned.machine.device, planned.wishes) or DEFAULT_RESERVE_BYTES

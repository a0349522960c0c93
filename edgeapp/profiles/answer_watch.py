"""Watch the machine during an answer, and record what was predicted and what came.

watch = AnswerWatch(expected, worker_pid)      just before the request
watch.done(done, source="run")                 after it
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from edgeapp.hardware import GpuSampler, read_host
from edgeapp.hardware.work import WorkReading, read_work
from edgeapp.profiles.predictions import MachineFacts, Prediction, Record, record

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeapp.hardware import GpuSample
    from edgeapp.placement.machine import Machine
    from edgeapp.placement.plan import PlacementPlan
    from edgeapp.placement.wishes import Workload
    from edgeapp.protocol import Done

_MIN_DECODED = 16
"""Fewer tokens say little about a rate."""
_MAX_DRAFTED = 0.05
"""Drafts that were right make an answer faster than its tokens' weights could be read."""
_MIN_PREFILLED, _MOST_OFF = 64, 2.0
"""A prompt much shorter or longer than the workload's is read at another rate."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """A loaded model and what was predicted for it."""

    model: str
    plan: PlacementPlan
    workload: Workload
    machine: Machine
    """With the speeds that the plan reckoned with."""
    assumed_ram_read_bps: float = 0.0
    """What memory of such a machine usually reads; 0 is what the plan reckoned with."""


class AnswerWatch:
    """Watches from its creation on. The worker must have loaded the model."""

    def __init__(self, expected: Expected, worker_pid: int) -> None:
        self._expected, self._pid = expected, worker_pid
        self._before = read_work(worker_pid)

    def done(self, done: Done, *, source: str) -> Record | None:
        """Record a finished answer; None when nothing of it can be compared with the prediction."""
        entry = self.measured(
            decode_tps=_comparable_decode(done),
            prefill_tps=_comparable_prefill(done, self._expected.workload),
            source=source,
        )
        if entry is not None:
            record(entry)
        return entry

    def measured(self, *, decode_tps: float, prefill_tps: float, source: str) -> Record | None:
        """Return, without recording it, what was measured since the creation; None when both rates are 0."""
        if not decode_tps and not prefill_tps:
            return None
        plan = self._expected.plan
        return Record(
            at_s=time.time(),
            source=source,
            model=self._expected.model,
            plan=next(iter(plan.reasons), ""),
            bottleneck=plan.bottleneck,
            uses_gpu=bool(plan.device),
            speeds=Prediction(
                decode_tps=plan.predicted.decode_tps,
                prefill_tps=plan.predicted.prefill_tps,
                actual_decode_tps=decode_tps,
                actual_prefill_tps=prefill_tps,
            ),
            facts=self._facts(),
        )

    def _facts(self) -> MachineFacts:
        plan, host = self._expected.plan, self._expected.machine.host
        facts = replace(
            work_facts(self._before, read_work(self._pid)),
            available_ram_bytes=read_host().available_ram_bytes,
            ram_weights_bytes=plan.ram.weights,
            load_mode=plan.load_mode,
            ram_read_bps=host.ram_read_bps,
            assumed_ram_read_bps=self._expected.assumed_ram_read_bps or host.ram_read_bps,
            is_measured=self._expected.machine.is_measured,
        )
        return with_gpu(facts, self._card()) if plan.device else facts

    def _card(self) -> GpuSample | None:
        """Return the card that holds most of the worker's memory; the first when the driver does not tell."""
        with GpuSampler() as sampler:
            samples = [sample for sample in sampler.sample((self._pid,)) if not sample.lost]
        return max(samples, key=lambda sample: sample.ours_bytes or 0, default=None)


class AnswerRecorder:
    """What a front end keeps beside its client: `begin` before every request, `end` with what ended it."""

    def __init__(
        self, expected: Expected, worker_pid: Callable[[], int | None], *, source: str = "run"
    ) -> None:
        self.expected = expected
        """To be replaced when the model is planned again."""
        self._worker_pid, self._source = worker_pid, source
        self._watch: AnswerWatch | None = None

    def begin(self) -> None:
        """An answer that waits for the model to be loaded is not watched."""
        pid = self._worker_pid()
        self._watch = None if pid is None else AnswerWatch(self.expected, pid)

    def end(self, done: Done) -> Record | None:
        """Record the answer; `likely_cause` says what was in the way, if anything."""
        watch, self._watch = self._watch, None
        return None if watch is None else watch.done(done, source=self._source)


def _comparable_decode(done: Done) -> float:
    written = done.usage.completion_tokens
    is_drafted = done.timings.draft_accepted > _MAX_DRAFTED * written
    return 0.0 if written < _MIN_DECODED or is_drafted else done.timings.decode_tps


def _comparable_prefill(done: Done, workload: Workload) -> float:
    computed = done.usage.prompt_tokens - done.usage.cached_tokens
    least = max(_MIN_PREFILLED, workload.n_prompt / _MOST_OFF)
    return done.timings.prompt_tps if least <= computed <= workload.n_prompt * _MOST_OFF else 0.0


def work_facts(before: WorkReading, after: WorkReading, *, children_s: float = 0.0) -> MachineFacts:
    """Return what happened between two readings; `children_s` CPU seconds of ended children are ours, too."""
    elapsed_s = max(after.at_s - before.at_s, 1e-3)
    ours_s = max(after.process_s - before.process_s, 0.0) + children_s
    others_s = max(after.busy_s - before.busy_s - ours_s, 0.0)
    return MachineFacts(
        elapsed_s=elapsed_s,
        worker_cores=ours_s / elapsed_s,
        others_cores=others_s / elapsed_s,
        host_cores=after.n_cpus,
        major_faults=max(after.major_faults - before.major_faults, 0),
        swapped_in_bytes=max(after.swapped_in_bytes - before.swapped_in_bytes, 0),
    )


def with_gpu(facts: MachineFacts, card: GpuSample | None) -> MachineFacts:
    """Return `facts` with what the card says; None is a card that nobody can ask, as one behind RPC."""
    if card is None:
        return facts
    return replace(
        facts,
        gpu_temperature_c=card.temperature_c,
        gpu_throttles=card.throttles or (),
        gpu_other_bytes=sum(process.used_bytes or 0 for process in card.others),
        gpu_others=tuple(process.name for process in card.others),
        pcie_width=card.pcie_width,
        pcie_max_width=card.pcie_max_width,
    )

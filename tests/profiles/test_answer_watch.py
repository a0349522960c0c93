"""What is recorded of an answer: only rates that the prediction was about, with what the machine did."""

from __future__ import annotations

import dataclasses
import os
import resource

import pytest
from msgspec.structs import replace

from edgeapp.hardware.work import read_work
from edgeapp.placement.wishes import Workload
from edgeapp.profiles.answer_watch import AnswerRecorder, AnswerWatch, Expected, with_gpu, work_facts
from edgeapp.profiles.likely_cause import was_crowded
from edgeapp.profiles.predictions import last_records
from edgeapp.protocol import Done, Timings, Usage
from tests.profiles.records import QUIET
from tests.tune.plans import MACHINE, a_plan

EXPECTED = Expected(
    model="a.gguf", plan=a_plan(), workload=Workload(n_prompt=512, n_answer=400), machine=MACHINE
)
DONE = Done(
    finish_reason="stop",
    usage=Usage(prompt_tokens=500, completion_tokens=100, cached_tokens=0),
    timings=Timings(load_s=1.0, ttft_s=0.5, prompt_tps=800.0, decode_tps=90.0),
    n_ctx=4096,
    n_ctx_used=600,
)


def test_predicted_and_actual_are_recorded_with_the_plan() -> None:
    entry = AnswerWatch(EXPECTED, os.getpid()).done(DONE, source="run")
    assert entry is not None
    assert last_records() == (entry,)
    assert (entry.speeds.decode_tps, entry.speeds.actual_decode_tps) == (100.0, 90.0)
    assert (entry.speeds.prefill_tps, entry.speeds.actual_prefill_tps) == (1000.0, 800.0)
    assert (entry.plan, entry.uses_gpu) == ("everything in host memory", False)
    assert entry.facts.available_ram_bytes > 0
    assert entry.facts.assumed_ram_read_bps == MACHINE.host.ram_read_bps


@pytest.mark.parametrize("n_prompt", [10, 200, 1100])
def test_a_prompt_of_another_length_is_not_compared(n_prompt: int) -> None:
    done = replace(DONE, usage=replace(DONE.usage, prompt_tokens=n_prompt))
    entry = AnswerWatch(EXPECTED, os.getpid()).done(done, source="run")
    assert entry is not None
    assert entry.speeds.actual_prefill_tps == 0


def test_a_prompt_that_was_cached_was_not_read() -> None:
    done = replace(DONE, usage=replace(DONE.usage, cached_tokens=450))
    entry = AnswerWatch(EXPECTED, os.getpid()).done(done, source="run")
    assert entry is not None
    assert entry.speeds.actual_prefill_tps == 0


def test_an_answer_made_of_drafts_is_not_compared() -> None:
    done = replace(
        DONE,
        usage=Usage(prompt_tokens=10, completion_tokens=100, cached_tokens=0),
        timings=replace(DONE.timings, draft_tokens=60, draft_accepted=40),
    )
    assert AnswerWatch(EXPECTED, os.getpid()).done(done, source="run") is None
    assert last_records() == ()


def test_a_word_or_two_say_nothing_about_the_rate() -> None:
    done = replace(DONE, usage=Usage(prompt_tokens=10, completion_tokens=3, cached_tokens=0))
    assert AnswerWatch(EXPECTED, os.getpid()).done(done, source="run") is None


def test_a_worker_that_is_gone_leaves_the_facts_of_the_machine() -> None:
    entry = AnswerWatch(EXPECTED, 2**22 + 1).done(DONE, source="run")
    assert entry is not None
    assert entry.facts.major_faults == 0


def test_the_counters_are_those_that_the_kernel_keeps_of_the_process() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF)
    reading = read_work(os.getpid())
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert before.ru_majflt <= reading.major_faults <= after.ru_majflt
    # This process counts twice: as the one that was asked for and as the one that asks.
    assert reading.process_s == pytest.approx(2 * (after.ru_utime + after.ru_stime), abs=0.5)
    assert reading.busy_s > 0
    assert reading.n_cpus == os.cpu_count()


def test_no_card_to_ask_leaves_the_facts_alone() -> None:
    assert with_gpu(QUIET, None) == QUIET


def test_a_front_end_records_each_answer_once() -> None:
    recorder = AnswerRecorder(EXPECTED, os.getpid)
    recorder.begin()
    entry = recorder.end(DONE)
    assert entry is not None
    assert recorder.end(DONE) is None
    assert last_records() == (entry,)


def test_an_answer_that_waited_for_the_model_is_not_recorded() -> None:
    recorder = AnswerRecorder(EXPECTED, lambda: None)
    recorder.begin()
    assert recorder.end(DONE) is None
    assert last_records() == ()


def test_a_child_that_measured_is_no_other_program() -> None:
    before = read_work(os.getpid())
    after = dataclasses.replace(
        before, at_s=before.at_s + 10, busy_s=before.busy_s + 20, process_s=before.process_s + 1, n_cpus=2
    )
    alone = work_facts(before, after, children_s=19.0)
    assert alone.worker_cores == pytest.approx(2.0)
    assert alone.others_cores == pytest.approx(0.0)
    assert not was_crowded(alone)
    assert was_crowded(work_facts(before, after, children_s=9.0))

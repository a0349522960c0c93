"""The tries of one model with the real engine: what is tried, what ends it, what is kept."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from edgeapp.errors import LoadFailed, NotEnoughMemory
from edgeapp.gguf_info import read_gguf_info
from edgeapp.placement.wishes import Wishes, Workload
from edgeapp.profiles.answer_watch import Expected
from edgeapp.profiles.machine_profile import MachineKey
from edgeapp.profiles.predictions import last_records
from edgeapp.profiles.tuned import Choices, read_tuned
from edgeapp.protocol import Load
from edgeapp.tune.candidates import Cores
from edgeapp.tune.keeping import keep
from edgeapp.tune.trials import MAX_REPEATS, Actual, Exercise, Placed, measure
from edgeapp.tune.tuning import Starting, Trial, Tuning, fastest
from tests.cli.processes import workers_of
from tests.fake_gpu import fake_gpu
from tests.profiles.records import QUIET, a_record
from tests.tune.plans import MACHINE, a_plan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edgeapp.tune.tuning import TuneEvent

WORKLOAD = Workload(n_prompt=64, n_answer=20)
TEXT = "The quick brown fox jumps over the lazy dog. " * 40
KEY = MachineKey(
    cpu_model="a CPU", physical_cores=2, logical_cores=2, ram_gib=8, device="", binding_version="1"
)


def placed(model: Path, choices: Choices) -> Placed:
    plan = a_plan(n_ctx=512, n_threads=choices.n_threads or 1)
    load = Load(
        path=str(model),
        n_ctx=512,
        n_threads=plan.n_threads,
        n_ubatch=choices.n_ubatch or 512,
        repack=choices.repack is not False,
    )
    expected = Expected(model=model.name, plan=plan, workload=WORKLOAD, machine=MACHINE)
    return Placed(expected=expected, load=load)


def a_tuning(
    model: Path,
    *,
    budget_s: float = 60.0,
    planner: Callable[[Choices], Placed] | None = None,
    listener: Callable[[TuneEvent], None] = lambda event: None,
) -> Tuning:
    return Tuning(
        planner or (lambda choices: placed(model, choices)),
        Wishes(workload=WORKLOAD, load_mode="mmap"),
        cores=Cores(physical=2, logical=2),
        budget_s=budget_s,
        text=TEXT,
        listener=listener,
    )


def exercise() -> Exercise:
    return Exercise(text=TEXT, n_prompt=64, n_decode=20, workload=WORKLOAD)


async def test_the_plan_comes_first_and_everything_open_is_tried(tiny_moe: Path) -> None:
    events: list[TuneEvent] = []
    tuning = a_tuning(tiny_moe, listener=events.append)
    await tuning.run()
    assert tuning.ended == "done"
    assert tuning.trials[0].choices == Choices()
    assert tuning.trials[1].choices == Choices(n_threads=2)
    assert tuning.trials[2].choices.repack is False
    for trial in tuning.trials:
        assert trial.actual is not None, trial.problem
        assert trial.actual.request_s == pytest.approx(
            64 / trial.actual.prefill_tps + 20 / trial.actual.decode_tps
        )
    assert [type(event) for event in events[:6]] == [Starting, Trial] * 3
    names = [event.name for event in events if isinstance(event, Starting)]
    assert names[3:4] in ([], ["as planned"])
    assert len(tuning.trials) == 3
    assert tuning.best is fastest(tuning.trials)
    assert workers_of(os.getpid()) == []


async def test_a_choice_that_does_not_fit_is_told_and_the_others_are_tried(tiny_moe: Path) -> None:
    def planner(choices: Choices) -> Placed:
        if choices != Choices():
            raise NotEnoughMemory("4 GiB are needed.")
        return placed(tiny_moe, choices)

    tuning = a_tuning(tiny_moe, planner=planner)
    await tuning.run()
    problems = {trial.name: trial.problem for trial in tuning.trials}
    assert problems == {
        "as planned": "",
        "2 threads": "4 GiB are needed.",
        "not repacked": "4 GiB are needed.",
    }
    assert tuning.best is tuning.trials[0]


async def test_when_the_time_is_over_the_plan_has_been_measured_all_the_same(tiny_moe: Path) -> None:
    tuning = a_tuning(tiny_moe, budget_s=0.001)
    await tuning.run()
    assert tuning.ended == "time"
    assert [trial.name for trial in tuning.trials] == ["as planned"]
    assert tuning.best is tuning.trials[0]


async def test_what_was_measured_before_an_interruption_is_known(tiny_moe: Path) -> None:
    tasks: list[asyncio.Task[None]] = []

    def listener(event: TuneEvent) -> None:
        if isinstance(event, Starting) and event.name == "2 threads":
            tasks[0].cancel()

    tuning = a_tuning(tiny_moe, listener=listener)
    tasks.append(asyncio.create_task(tuning.run()))
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    assert tuning.ended == "interrupted"
    assert tuning.best is tuning.trials[0]
    assert workers_of(os.getpid()) == []


async def test_a_model_that_cannot_be_loaded_ends_it(tmp_path: Path, tiny_moe: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(tiny_moe.read_bytes()[:200_000])
    with pytest.raises(LoadFailed):
        await a_tuning(broken).run()


async def test_a_try_that_is_clearly_slower_or_takes_long_is_not_repeated(tiny_moe: Path) -> None:
    lost, _ = await measure(placed(tiny_moe, Choices()), exercise(), best_s=1e-6, enough_s=60)
    assert lost.n_repeats == 1
    whole, record = await measure(placed(tiny_moe, Choices()), exercise(), best_s=1e6, enough_s=60)
    assert whole.n_repeats == MAX_REPEATS
    assert record is not None
    assert record.speeds.actual_decode_tps == whole.decode_tps
    assert record.speeds.actual_prefill_tps == whole.prefill_tps
    assert record.speeds.decode_tps == 100.0


async def test_a_prompt_much_shorter_than_the_workloads_has_no_prefill_to_compare(tiny_moe: Path) -> None:
    short = dataclasses.replace(exercise(), workload=Workload(n_prompt=2048, n_answer=20))
    brief, record = await measure(placed(tiny_moe, Choices()), short, best_s=None, enough_s=0)
    assert brief.n_repeats == 1
    assert record is not None
    assert record.speeds.actual_prefill_tps == 0
    assert record.speeds.actual_decode_tps > 0


async def test_a_try_that_had_to_be_loaded_otherwise_is_not_measured(
    demo_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 92 MiB of weights, 11 of KV; 13 of compute buffers at 512 tokens do not fit, 7 at 256 would.
    with fake_gpu(total_mib=113) as gpu:
        for name, value in gpu.environment.items():
            monkeypatch.setenv(name, value)
        on_gpu = placed(demo_model, Choices())
        load = replace(on_gpu.load, device=gpu.name, n_gpu_layers=999)
        with pytest.raises(NotEnoughMemory):
            await measure(dataclasses.replace(on_gpu, load=load), exercise(), best_s=None, enough_s=60)


# What is kept --------------------------------------------------------------------------------------------


def a_trial(choices: Choices, request_s: float, model: Path) -> Trial:
    actual = Actual(prefill_tps=500.0, decode_tps=50.0, request_s=request_s, n_repeats=3)
    return Trial(choices=choices, placed=placed(model, choices), actual=actual)


async def test_a_winner_is_measured_again_with_the_plan_and_luck_does_not_win(tiny_moe: Path) -> None:
    tuning = a_tuning(tiny_moe)
    tuning.exercise = exercise()
    lucky = a_trial(Choices(n_threads=2), 1e-6, tiny_moe)
    tuning.trials = [a_trial(Choices(), 1e6, tiny_moe), lucky]
    await tuning._confirm()
    plan, again = tuning.trials
    assert plan.actual is not None
    assert again.actual is not None
    assert plan.actual.request_s < 1e6
    assert again.actual.request_s > 1e-6
    assert (plan.choices, again.choices) == (Choices(), Choices(n_threads=2))


@pytest.mark.parametrize(
    ("second_s", "third_s", "best"), [(9.8, 9.75, 0), (9.0, 8.9, 1), (9.0, 8.0, 2), (11.0, 12.0, 0)]
)
def test_a_near_draw_goes_to_who_was_first(
    second_s: float, third_s: float, best: int, tiny_moe: Path
) -> None:
    seconds = (10.0, second_s, third_s)
    trials = [a_trial(Choices(n_threads=n), request_s, tiny_moe) for n, request_s in enumerate(seconds)]
    assert fastest(trials) is trials[best]


def test_nothing_measured_is_no_winner() -> None:
    assert fastest([Trial(choices=Choices(), placed=None, actual=None, problem="too large")]) is None


async def test_the_fastest_is_kept_for_this_model_and_workload(tiny_moe: Path) -> None:
    info, wishes = read_gguf_info(tiny_moe), Wishes(workload=WORKLOAD)
    trials = [a_trial(Choices(), 10.0, tiny_moe), a_trial(Choices(n_threads=2), 8.0, tiny_moe)]
    kept = keep(info, wishes, KEY, trials=trials, best=trials[1])
    assert kept is not None
    assert kept == read_tuned(info, WORKLOAD, 0, KEY)
    assert (kept.choices, kept.actual_s, kept.planned_actual_s) == (Choices(n_threads=2), 8.0, 10.0)


async def test_a_plan_that_is_best_itself_ends_what_was_kept_before(tiny_moe: Path) -> None:
    info, wishes = read_gguf_info(tiny_moe), Wishes(workload=WORKLOAD)
    trials = [a_trial(Choices(), 10.0, tiny_moe), a_trial(Choices(n_threads=2), 8.0, tiny_moe)]
    keep(info, wishes, KEY, trials=trials, best=trials[1])
    assert keep(info, wishes, KEY, trials=trials, best=trials[0]) is None
    assert read_tuned(info, WORKLOAD, 0, KEY) is None


@pytest.mark.parametrize("crowded", [0, 1])
def test_what_won_while_other_programs_computed_is_not_kept(crowded: int, tiny_moe: Path) -> None:
    info, wishes = read_gguf_info(tiny_moe), Wishes(workload=WORKLOAD)
    trials = [a_trial(Choices(), 10.0, tiny_moe), a_trial(Choices(n_threads=2), 8.0, tiny_moe)]
    busy = a_record(facts=replace(QUIET, worker_cores=2.0, others_cores=6.0))
    trials[crowded] = dataclasses.replace(trials[crowded], record=busy)
    assert keep(info, wishes, KEY, trials=trials, best=trials[1]) is None
    assert read_tuned(info, WORKLOAD, 0, KEY) is None
    assert last_records() == (busy,)


async def test_without_a_measured_plan_nothing_is_kept(tiny_moe: Path) -> None:
    info, wishes = read_gguf_info(tiny_moe), Wishes(workload=WORKLOAD)
    assert keep(info, wishes, KEY, trials=(), best=None) is None
    assert last_records() == ()

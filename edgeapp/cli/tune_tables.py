"""What `edgeapp tune` prints: the machine, every try with predicted against actual, the winner; JSON too."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click
from msgspec import structs

from edgeapp.cleantext import clean_line
from edgeapp.cli.download_progress import describe_bytes
from edgeapp.cli.table import print_columns, print_rows
from edgeapp.profiles.tuned import Choices

if TYPE_CHECKING:
    from edgeapp.gguf_info import GgufInfo
    from edgeapp.placement.wishes import Workload
    from edgeapp.profiles.machine_profile import MachineProfile, Speeds
    from edgeapp.tune.trials import Exercise
    from edgeapp.tune.tuning import Ended, Trial

_ENDED = {
    "done": "",
    "time": "The time was over before everything was tried: a larger --minutes tries more.",
    "interrupted": "Stopped; what was measured until then counts.",
}


@dataclass(frozen=True, kw_only=True)
class TuneReport:
    """What is known of one model. `best` is None when not even the plan was measured."""

    info: GgufInfo
    profile: MachineProfile
    exercise: Exercise | None
    trials: tuple[Trial, ...]
    best: Trial | None
    is_kept: bool
    """Later starts use `best`."""
    ended: Ended

    @property
    def planned(self) -> Trial | None:
        """The try without any choice of ours."""
        return next((trial for trial in self.trials if trial.choices == Choices()), None)

    @property
    def speed_up(self) -> float:
        """How many times as fast as the plan; 1 when the plan was best."""
        best, planned = self.best, self.planned
        if best is None or planned is None or best.actual is None or planned.actual is None:
            return 1.0
        return planned.actual.request_s / best.actual.request_s

    @property
    def n_crowded(self) -> int:
        """How many tries shared the CPUs with other programs, which makes them hard to compare."""
        return sum(1 for trial in self.trials if trial.is_crowded)

    def as_json(self) -> dict[str, Any]:
        """Return one object; rates are tokens per second, times seconds."""
        return {
            "model": str(self.info.path),
            "machine": machine_json(self.profile),
            "workload": asdict(self.exercise.workload) if self.exercise else None,
            "measured": None if self.exercise is None else _measured_json(self.exercise),
            "trials": [_trial_json(trial) for trial in self.trials],
            "best": self.best.name if self.best else None,
            "choices": structs.asdict(self.best.choices) if self.best else None,
            "speed_up": self.speed_up,
            "n_crowded": self.n_crowded,
            "is_kept": self.is_kept,
            "ended": self.ended,
        }

    def print(self) -> None:
        print_rows([("model", _model(self.info)), *machine_rows(self.profile), *self._workload_rows()])
        click.echo()
        print_columns([_HEADING, *(_row(trial, best=self.best) for trial in self.trials)])
        click.echo()
        click.echo(self._verdict())
        if self.planned is not None and self.planned.cause:
            click.echo(f"The prediction of the plan was off. {self.planned.cause}")
        if self.n_crowded:
            click.echo(
                f"Other programs took CPU time during {self.n_crowded} of {len(self.trials)} tries:"
                " tune again when nothing else runs."
            )
        if _ENDED[self.ended]:
            click.echo(_ENDED[self.ended])

    def _workload_rows(self) -> list[tuple[str, str]]:
        exercise = self.exercise
        if exercise is None:
            return []
        request = f"{_tokens(exercise.workload)}; {exercise.n_prompt} and {exercise.n_decode} are measured"
        return [("request", request)]

    def _verdict(self) -> str:
        best, planned = self.best, self.planned
        if best is None or best.actual is None or planned is None or planned.actual is None:
            return "Nothing was measured."
        if best is planned:
            return f"The plan is the fastest: {_seconds(best.actual.request_s)} a request."
        return (
            f"The fastest is: {best.name}. {_seconds(best.actual.request_s)} a request instead of "
            f"{_seconds(planned.actual.request_s)}, {self.speed_up:.2f} times as fast as the plan. "
            + ("`edgeapp run` uses it from now on." if self.is_kept else "It is not kept for later.")
        )


_HEADING = ("try", "decode", "predicted", "prefill", "predicted", "request", "predicted", "")


def machine_rows(profile: MachineProfile) -> list[tuple[str, str]]:
    """Return what is known of the machine as labels and values."""
    speeds = profile.speeds
    threads = _threads(speeds.n_threads_best or profile.key.physical_cores)
    host = (
        f"reads {speeds.ram_read_bps / 1e9:.1f} GB/s with {threads}, "
        f"computes {speeds.host_flops / 1e9:.0f} GFLOP/s"
    )
    if profile.is_crowded:
        host += "; measured while other programs computed"
    return [("memory", host), *_device_rows(speeds)]


def _device_rows(speeds: Speeds) -> list[tuple[str, str]]:
    if not speeds.device_read_bps:
        return []
    reads, computes = f"{speeds.device_read_bps / 1e9:.0f} GB/s", f"{speeds.device_flops / 1e12:.1f} TFLOP/s"
    copies = f"{speeds.pinned_bps / 1e9:.1f} GB/s pinned, {speeds.pageable_bps / 1e9:.1f} GB/s pageable"
    return [
        ("GPU", f"reads {reads}, computes {computes}"),
        ("copies to it", f"{copies}, {speeds.sync_s * 1e6:.0f} µs there and back"),
    ]


def machine_json(profile: MachineProfile) -> dict[str, Any]:
    """Return key and speeds as one flat object."""
    return {
        **structs.asdict(profile.key),
        **structs.asdict(profile.speeds),
        "assumed_ram_read_bps": profile.assumed_ram_read_bps,
        "measured_at_s": profile.measured_at_s,
        "is_crowded": profile.is_crowded,
    }


def _row(trial: Trial, *, best: Trial | None) -> tuple[str, ...]:
    actual, placed = trial.actual, trial.placed
    predicted = placed.plan.predicted if placed else None
    note = clean_line(trial.problem, max_chars=60) or ("←" if trial is best else "")
    return (
        trial.name,
        _rate(actual.decode_tps) if actual else "–",
        _against(predicted.decode_tps if predicted else 0.0, actual.decode_tps if actual else 0.0),
        _rate(actual.prefill_tps) if actual else "–",
        _against(predicted.prefill_tps if predicted else 0.0, actual.prefill_tps if actual else 0.0),
        _seconds(actual.request_s) if actual else "–",
        _seconds(predicted.request_s) if predicted else "–",
        note,
    )


def _against(predicted: float, actual: float) -> str:
    """Return the predicted rate, and how far off the actual one was: "41.0 (-12%)"."""
    if not predicted:
        return "–"
    off = f" ({actual / predicted - 1:+.0%})" if actual else ""
    return f"{_rate(predicted)}{off}"


def _rate(tps: float) -> str:
    return f"{tps:.1f}" if tps < 100 else f"{tps:.0f}"  # noqa: PLR2004 - a rounding, not a rule


def _trial_json(trial: Trial) -> dict[str, Any]:
    placed, actual = trial.placed, trial.actual
    return {
        "name": trial.name,
        "choices": structs.asdict(trial.choices),
        "predicted": asdict(placed.plan.predicted) if placed else None,
        "actual": asdict(actual) if actual else None,
        "problem": trial.problem,
        "cause": trial.cause,
    }


def _measured_json(exercise: Exercise) -> dict[str, int]:
    return {"n_prompt": exercise.n_prompt, "n_decode": exercise.n_decode}


def _model(info: GgufInfo) -> str:
    experts = f", {info.n_expert_used} of {info.n_expert} experts" if info.is_moe else ""
    return f"{clean_line(info.path.name, max_chars=60)}, {describe_bytes(info.file_bytes)}{experts}"


def _tokens(workload: Workload) -> str:
    return f"{workload.n_prompt} tokens read, {workload.n_answer} written"


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"

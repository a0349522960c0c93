"""How well a model does a preset's cases: the figures and how they are printed."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from edgeapp.bench.intervals import wilson_interval
from edgeapp.cleantext import clean_line
from edgeapp.cli.preset_job import answers, question
from edgeapp.cli.table import print_rows
from edgeapp.presets import is_right, is_valid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.cli.job import Job
    from edgeapp.presets import Case, Preset


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """One case, answered."""

    text: str
    is_right: bool
    is_valid: bool
    prompt_tokens: int
    completion_tokens: int
    answer_s: float


@dataclass(frozen=True, kw_only=True)
class CasesReport:
    """All cases of a preset with one model."""

    preset: str
    model: str
    n_expert_used: int
    has_schema: bool
    results: tuple[CaseResult, ...]

    def as_json(self) -> dict[str, Any]:
        n, n_right = len(self.results), sum(result.is_right for result in self.results)
        low, high = wilson_interval(n_right, n)
        return {
            "preset": self.preset,
            "model": self.model,
            "experts": self.n_expert_used,
            "cases": n,
            "right": n_right,
            "accuracy": n_right / n,
            "accuracy_interval": [low, high],
            "valid": sum(result.is_valid for result in self.results) / n if self.has_schema else None,
            "prompt_tokens": sum(result.prompt_tokens for result in self.results),
            "completion_tokens": sum(result.completion_tokens for result in self.results),
            "time_s": sum(result.answer_s for result in self.results),
            "answers": [{"text": result.text, "right": result.is_right} for result in self.results],
        }

    def print(self) -> None:
        facts = self.as_json()
        low, high = facts["accuracy_interval"]
        valid = [("valid JSON", f"{facts['valid']:.0%}")] if self.has_schema else []
        experts = [("experts", str(self.n_expert_used))] if self.n_expert_used else []
        print_rows(
            [
                ("preset", self.preset),
                ("model", clean_line(self.model)),
                *experts,
                ("right", f"{facts['right']} of {facts['cases']}"),
                ("accuracy", f"{facts['accuracy']:.0%} (95 % interval {low:.0%} to {high:.0%})"),
                *valid,
                ("tokens", f"{facts['prompt_tokens']} read, {facts['completion_tokens']} written"),
                ("time", f"{facts['time_s']:.1f} s"),
            ]
        )


def run_cases(preset: Preset, job: Job, cases: Sequence[Case]) -> CasesReport:
    """Answer every case and grade it. Raise `EdgeappError`."""
    results = asyncio.run(_results(preset, job, cases))
    return CasesReport(
        preset=preset.name,
        model=job.model,
        n_expert_used=job.engine.n_expert_used,
        has_schema=bool(preset.schema),
        results=results,
    )


async def _results(preset: Preset, job: Job, cases: Sequence[Case]) -> tuple[CaseResult, ...]:
    questions = [question(preset, case.values) for case in cases]
    results: list[CaseResult] = []
    began_s = time.monotonic()
    async for answer in answers(job, questions):
        case = cases[len(results)]
        results.append(
            CaseResult(
                text=answer.text,
                is_right=is_right(case, answer.text, schema=preset.schema),
                is_valid=answer.is_whole and is_valid(answer.text, preset.schema),
                prompt_tokens=answer.done.usage.prompt_tokens,
                completion_tokens=answer.done.usage.completion_tokens,
                answer_s=time.monotonic() - began_s,
            )
        )
        if not results[-1].is_right:
            shown = clean_line(answer.text, max_chars=100)
            click.echo(f"case {len(results)} wrong: {shown}", err=True)
        began_s = time.monotonic()
    return tuple(results)

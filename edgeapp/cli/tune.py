"""`edgeapp tune`: measure this machine, try the best plans of a model for real, keep the fastest."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING, Any

import click
import msgspec

from edgeapp import catalog, log
from edgeapp.cli.json_errors import json_errors
from edgeapp.cli.placement_flags import placement_flags, workload_flag
from edgeapp.cli.placement_wishes import wishes_of
from edgeapp.config import load_settings
from edgeapp.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from edgeapp.cli.tune_progress import TuneProgress
    from edgeapp.cli.tune_tables import TuneReport
    from edgeapp.gguf_info import GgufInfo
    from edgeapp.placement.wishes import Wishes
    from edgeapp.profiles.machine_profile import MachineProfile
    from edgeapp.tune.tuning import Tuning

_EXAMPLES = """\b
Examples:
  edgeapp tune model.gguf                        try for three minutes, keep the fastest
  edgeapp tune model.gguf --for prefill          for long prompts
  edgeapp tune model.gguf --ctx 32768 --minutes 10
  edgeapp tune --machine-only                    memory and copies alone: better plans for every model
  edgeapp tune model.gguf --json | jq .speed_up  for scripts
"""
_EXIT_SIGNAL = 128
"""A shell reports death by signal n as 128 + n; ending cleanly on one reports the same."""


@click.command(epilog=_EXAMPLES)
@click.argument("model", required=False)
@workload_flag
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True, max=1440),
    default=3.0,
    show_default=True,
    help="Time for all tries; the plan itself is always measured to the end.",
)
@click.option("--machine-only", is_flag=True, help="Measure the machine again, and no model.")
@placement_flags
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    model: str | None, workload: str, minutes: float, *, machine_only: bool, as_json: bool, **flags: Any
) -> None:
    """Measure this machine and find the fastest way to run MODEL on it.

    First, once: how fast host memory, GPU memory and the copies between them are, and with how many threads.
    Then the plan and the few that may beat it are loaded one after the other, and read and write for real.
    The fastest is kept: `edgeapp run` uses it as long as it fits. Let nothing else run meanwhile. Ctrl+C
    keeps what is known. MODEL is a .gguf file, a catalog name, or nothing for the embedded demo.
    """
    from edgeapp.cli.tune_progress import TuneProgress

    settings = load_settings(flags)
    log.set_up(settings.log_level)
    with json_errors(as_json=as_json):
        wishes = wishes_of(settings, workload=workload)
        if machine_only and model is not None:
            raise UsageError("--machine-only measures no model.", hint="Leave MODEL or --machine-only out.")
        with TuneProgress().shown() as progress:
            if machine_only:
                profile = asyncio.run(_machine(wishes, progress))
            else:
                path = catalog.resolve_local(catalog.DEMO if model is None else model)
                report, stopped_by = asyncio.run(_tuned(path, wishes, 60 * minutes, progress))
    if machine_only:
        _print_machine(profile, as_json=as_json)
        return
    if report.best is not None:
        _print_report(report, as_json=as_json)
    if stopped_by:
        sys.exit(_EXIT_SIGNAL + stopped_by)


async def _machine(wishes: Wishes, progress: TuneProgress) -> MachineProfile:
    from edgeapp.runtime.planning import machine_facts
    from edgeapp.tune.machine import machine_profile

    facts = await machine_facts(use_gpu=wishes.use_gpu)
    return await machine_profile(facts, anew=True, on_measuring=progress.measuring_machine)


async def _tuned(
    path: Path, wishes: Wishes, budget_s: float, progress: TuneProgress
) -> tuple[TuneReport, int]:
    """Return what was measured and kept, and the signal that ended it, 0 for none."""
    from edgeapp.cli.tune_tables import TuneReport
    from edgeapp.runtime.planning import machine_facts, planned
    from edgeapp.tune.candidates import Cores
    from edgeapp.tune.machine import machine_profile
    from edgeapp.tune.placing import planner
    from edgeapp.tune.tuning import Tuning
    from edgeapp_converters import texts

    facts = await machine_facts(use_gpu=wishes.use_gpu)
    profile = await machine_profile(facts, anew=False, on_measuring=progress.measuring_machine)
    first = await planned(path, wishes, is_tuned=False)
    tuning = Tuning(
        planner(first, profile),
        wishes,
        cores=Cores(physical=facts.host.physical_cores, logical=facts.host.logical_cores),
        budget_s=budget_s,
        text=texts.find(texts.EVALUATION).text,
        listener=progress.tell,
    )
    stopped_by = await _run_until_stopped(tuning)
    report = TuneReport(
        info=first.info,
        profile=profile,
        exercise=tuning.exercise,
        trials=tuple(tuning.trials),
        best=tuning.best,
        is_kept=_keep(tuning, first.info, wishes, profile),
        ended=tuning.ended,
    )
    return report, stopped_by


async def _run_until_stopped(tuning: Tuning) -> int:
    """Return the signal that stopped it, 0 for none. Raise what the tuning raises."""
    loop = asyncio.get_running_loop()
    running = asyncio.ensure_future(tuning.run())
    received: list[int] = []

    def on_signal(number: int) -> None:
        received.append(number)
        running.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
    try:
        await running
    except asyncio.CancelledError:
        if not received:
            raise
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    return received[0] if received else 0


def _keep(tuning: Tuning, info: GgufInfo, wishes: Wishes, profile: MachineProfile) -> bool:
    """Tell whether there is something that later starts use."""
    from edgeapp.tune.keeping import keep

    try:
        return keep(info, wishes, profile.key, trials=tuning.trials, best=tuning.best) is not None
    except OSError as problem:
        reason = problem.strerror or str(problem)
        click.echo(f"note: The result could not be kept for later starts: {reason}.", err=True)
        return False


def _print_report(report: TuneReport, *, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(report.as_json()))
    else:
        report.print()


def _print_machine(profile: MachineProfile, *, as_json: bool) -> None:
    from edgeapp.cli.table import print_rows
    from edgeapp.cli.tune_tables import machine_json, machine_rows

    if as_json:
        click.echo(msgspec.json.encode(machine_json(profile)))
    else:
        print_rows([("cpu", profile.key.cpu_model), *machine_rows(profile)])

"""`edgeapp bench`: how fast a model is here, and what fewer or more experts cost and save."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import click
import msgspec

from edgeapp import catalog, log
from edgeapp.cleantext import clean_line
from edgeapp.cli import conversion_progress
from edgeapp.cli.json_errors import json_errors
from edgeapp.config import load_settings
from edgeapp.errors import UnsupportedModel, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeapp.cli.bench_tables import CountsReport, SpeedReport
    from edgeapp.gguf_info import GgufInfo
    from edgeapp_converters.events import Report

_EXAMPLES = """\b
Examples:
  edgeapp bench model.gguf                          tokens per second, reading and writing
  edgeapp bench model.gguf --experts 1,2,4,8        speed against loss, for each number of experts
  edgeapp bench model.gguf --experts 4 --text code  the loss on another text
  edgeapp bench model.gguf --json | jq .decode_tps  for scripts
"""
_TEXT = "evaluation"
_MAX_DIGITS = 4  # 1,024 experts are the most that llama.cpp knows


@click.command(epilog=_EXAMPLES)
@click.argument("model")
@click.option(
    "--experts",
    metavar="N,N,…",
    help="Load the model with each of these numbers of active experts, and compare with the trained one.",
)
@click.option("--text", metavar="TEXT", help="Text to read, a file or a bundled one. Default: evaluation.")
@click.option(
    "--tokens",
    type=click.IntRange(min=32),
    default=2048,
    show_default=True,
    help="With --experts: measure the loss on this much of the text; half of it is scored.",
)
@click.option(
    "--prompt", "n_prompt", type=click.IntRange(min=8), default=512, show_default=True, help="Tokens to read."
)
@click.option(
    "--decode",
    "n_decode",
    type=click.IntRange(min=2),
    default=128,
    show_default=True,
    help="Tokens to write.",
)
@click.option(
    "--repeats",
    type=click.IntRange(1, 1000),
    default=5,
    show_default=True,
    help="Repeats; the median counts.",
)
@click.option("--threads", type=click.IntRange(1, 512), help="Threads. Default: one per physical core.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(model: str, experts: str | None, *, as_json: bool, **choices: Any) -> None:
    """Measure how many tokens a second MODEL reads and writes on this machine.

    With --experts also what another number of active experts costs: how far the probabilities of the next
    token are from those of the trained number (KL divergence), and how often the likeliest token is the same.
    MODEL is the path of a .gguf file, a catalog name, or a model of the hub that has been downloaded.
    """
    from edgeapp.gguf_info import read_gguf_info

    log.set_up(load_settings({}).log_level)
    with json_errors(as_json=as_json):
        info = read_gguf_info(catalog.resolve_local(model))
        counts = None if experts is None else _counts(experts, info)
        with conversion_progress.shown() as report:
            if counts is None:
                measured: SpeedReport | CountsReport = asyncio.run(_speed(info, choices, report))
            else:
                measured = _by_count(info, counts, choices, report)
    if as_json:
        click.echo(msgspec.json.encode(measured.as_json()))
    else:
        measured.print()


def _counts(experts: str, info: GgufInfo) -> list[int]:
    """Parse numbers between commas. Raise `UsageError`, for a dense model `UnsupportedModel`."""
    if not info.is_moe:
        raise UnsupportedModel(
            f"{clean_line(info.path.name, max_chars=80)} is dense: it has no experts to choose from.",
            hint="Leave --experts out.",
        )
    numbers = [part.strip() for part in experts.split(",")]
    wrong = [
        part for part in numbers if not part.isascii() or not part.isdecimal() or len(part) > _MAX_DIGITS
    ]
    if wrong:
        raise UsageError(
            f"{clean_line(wrong[0], max_chars=40)!r} is not a number of experts.",
            hint="Like --experts 1,2,4,8.",
        )
    counts = sorted(set(map(int, numbers)))
    if not 1 <= counts[0] <= counts[-1] <= info.n_expert:
        raise UsageError(
            f"--experts {clean_line(experts, max_chars=60)}: the model can use 1 to {info.n_expert} experts.",
            hint=f"It was trained with {info.n_expert_used}.",
        )
    return counts


async def _speed(info: GgufInfo, choices: dict[str, Any], report: Report) -> SpeedReport:
    from edgeapp.bench.speed import SPARE_TOKENS, measure_speed
    from edgeapp.cli.bench_tables import SpeedReport
    from edgeapp.profiles.answer_watch import AnswerWatch
    from edgeapp.profiles.predictions import record
    from edgeapp.runtime.planning import EngineChoice, planned_to_measure
    from edgeapp.runtime.worker_client import WorkerClient
    from edgeapp_converters import texts

    n_ctx = choices["n_prompt"] + choices["n_decode"] + SPARE_TOKENS
    made = await planned_to_measure(info.path, n_ctx=n_ctx, n_threads=choices["threads"] or 0)
    load = EngineChoice(planned=made).load
    client = WorkerClient(load)
    on_step = _counted(report, total=choices["repeats"] + 1)
    try:
        loaded = await client.load()
        watch = AnswerWatch(made.expected, client.worker_pid or 0)
        speed = await measure_speed(
            client,
            texts.find(choices["text"] or _TEXT).text,
            n_prompt=choices["n_prompt"],
            n_decode=choices["n_decode"],
            n_repeats=choices["repeats"],
            on_step=on_step,
        )
        entry = watch.measured(
            decode_tps=speed.decode.median_tps, prefill_tps=speed.prefill.median_tps, source="bench"
        )
        if entry is not None:
            record(entry)
        return SpeedReport(info=info, loaded=loaded, load=load, speed=speed)
    finally:
        await client.aclose()


def _counted(report: Report, *, total: int) -> Callable[[], None]:
    """Return what is to be called after each of `total` steps."""
    from edgeapp_converters.events import StageProgress

    done = itertools.count(1)

    def on_step() -> None:
        report(StageProgress(stage="measuring", done=next(done), total=total, unit="steps"))

    return on_step


def _by_count(info: GgufInfo, counts: list[int], choices: dict[str, Any], report: Report) -> CountsReport:
    from edgeapp.bench.expert_counts import Choices, measure_counts
    from edgeapp.cli.bench_tables import CountsReport
    from edgeapp_converters import texts
    from edgeapp_converters.events import StageProgress

    text = texts.find(choices["text"] or _TEXT)

    def on_step(done: int, total: int) -> None:
        report(StageProgress(stage="measuring", done=done, total=total, unit="steps"))

    wanted = Choices(
        n_tokens=choices["tokens"],
        n_prompt=choices["n_prompt"],
        n_decode=choices["n_decode"],
        n_repeats=choices["repeats"],
        n_threads=choices["threads"] or 0,
    )
    measuring = measure_counts(
        info.path,
        counts,
        text.text,
        trained=info.n_expert_used,
        choices=wanted,
        on_step=on_step,
    )
    return CountsReport(info=info, text_name=text.name, results=tuple(asyncio.run(measuring)))

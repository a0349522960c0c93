"""`edgeapp quality`: what a quantised model lost against its base."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click
import msgspec

from edgeapp import catalog, log
from edgeapp.cleantext import clean_line
from edgeapp.cli import conversion_progress
from edgeapp.cli.download_progress import describe_bytes
from edgeapp.cli.json_errors import json_errors
from edgeapp.cli.table import print_rows
from edgeapp.config import load_settings
from edgeapp.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from edgeapp_converters.events import Report
    from edgeapp_converters.quality import QualityReport

_EXAMPLES = """\b
Examples:
  edgeapp quality model-Q8_0.gguf model-Q4.gguf                   the bundled text and task
  edgeapp quality base.gguf quant.gguf --text report.txt          a text of your own
  edgeapp quality base.gguf quant.gguf --no-task --max-tokens 4096    a quick look
  edgeapp quality base.gguf quant.gguf --json | jq .kld_mean      for scripts
"""
PROMISED_RETENTION = 0.987
"""What edgeapp's recipes are meant to keep of the base model's score."""


@click.command(epilog=_EXAMPLES)
@click.argument("base")
@click.argument("quant")
@click.option(
    "--text", metavar="TEXT", help="Text to measure on, a file or a bundled one. Default: evaluation."
)
@click.option(
    "--task", metavar="TASK", help="Multiple-choice task, a .jsonl file or a bundled one. Default: everyday."
)
@click.option("--no-task", is_flag=True, help="Leave out the multiple-choice task.")
@click.option(
    "--n-ctx",
    type=click.IntRange(32, 1 << 20),
    default=512,
    show_default=True,
    help="Tokens of a chunk; its second half is scored.",
)
@click.option("--max-tokens", type=click.IntRange(min=32), help="Use this much of the text. Default: all.")
@click.option("--threads", type=click.IntRange(1, 512), help="Threads. Default: one per physical core.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(base: str, quant: str, *, as_json: bool, **choices: Any) -> None:
    """Measure what QUANT lost against BASE, the same model with more bits.

    Both compute the same text, one beside the other, and then a multiple-choice task. The most telling number
    is the mean KL divergence: how far apart the two models' probabilities for the next token are. BASE and
    QUANT are paths of .gguf files, catalog names, or models of the hub that have been downloaded.
    """
    log.set_up(load_settings({}).log_level)
    with json_errors(as_json=as_json), conversion_progress.shown() as report:
        if choices["task"] and choices["no_task"]:
            raise UsageError("--task and --no-task contradict each other.", hint="Choose one.")
        base_path, quant_path = catalog.resolve_local(base), catalog.resolve_local(quant)
        measured = _measure(base_path, quant_path, choices, report)
    if as_json:
        facts = {"base": str(base_path), "quant": str(quant_path)} | measured.as_json()
        click.echo(msgspec.json.encode(facts))
    else:
        _print(base_path, quant_path, measured)


def _measure(base: Path, quant: Path, choices: dict[str, Any], report: Report) -> QualityReport:
    # The converters import numpy, which --help does not need.
    from edgeapp_converters import retention, texts
    from edgeapp_converters.quality import measure_quality

    text = texts.find(choices["text"] or texts.EVALUATION)
    task = None if choices["no_task"] else retention.load_task(choices["task"] or retention.BUNDLED)
    return asyncio.run(
        measure_quality(
            base,
            quant,
            text.text,
            text_name=text.name,
            n_ctx=choices["n_ctx"],
            max_tokens=choices["max_tokens"],
            task=task,
            n_threads=choices["threads"] or 0,
            report=report,
        )
    )


# Output --------------------------------------------------------------------------------------------------


def _print(base: Path, quant: Path, measured: QualityReport) -> None:
    rows = [
        ("base", _file(base, measured.base_bytes, measured.base_bpw)),
        ("quant", _file(quant, measured.quant_bytes, measured.quant_bpw)),
        ("text", f"{clean_line(measured.text_name)}, {measured.n_tokens:,} tokens scored"),
        ("KL divergence", f"mean {measured.kld_mean:.4f}, median {measured.kld_median:.4f}"),
        ("", f"99 % of tokens below {measured.kld_p99:.3f}, 99.9 % below {measured.kld_p999:.3f}"),
        ("same top token", _share(measured.top1_agreement, measured.top1_ci)),
        ("perplexity", f"{measured.ppl_base:.3f} → {measured.ppl_quant:.3f}, × {measured.ppl_ratio:.4f}"),
        ("next token's Δp", f"{measured.rms_dp:.1%} root mean square"),
        *_task_rows(measured),
    ]
    print_rows(rows)
    click.echo(f"\n{verdict(measured)}")


def _file(path: Path, n_bytes: int, bits_per_weight: float) -> str:
    name = clean_line(path.name, max_chars=60)
    return f"{name}, {describe_bytes(n_bytes)}, {bits_per_weight:.2f} bits per weight"


def _share(value: float, interval: tuple[float, float] | None) -> str:
    if interval is None:
        return f"{value:.1%}"
    return f"{value:.1%} (95 % interval {interval[0]:.1%} to {interval[1]:.1%})"


def _task_rows(measured: QualityReport) -> list[tuple[str, str]]:
    task = measured.task
    if task is None:
        return []
    rows = [
        (
            f"task {clean_line(task.task_name)}",
            f"base {task.task_base:.1%} of {task.task_items} right, quant {task.task_quant:.1%}",
        )
    ]
    if task.retention is not None:
        rows.append(("score kept", _share(task.retention, task.retention_ci)))
    return [*rows, ("", f"{task.flips} items are right with one model alone")]


def verdict(measured: QualityReport) -> str:
    """Return what the numbers say, in a sentence or two that claim no more than was measured."""
    size = f"{measured.quant_bytes / measured.base_bytes:.0%} of the size"
    if measured.top1_agreement == 1:
        said = f"With {size}, both models prefer the same word everywhere."
    else:
        said = f"With {size}, one word in {_one_in(1 - measured.top1_agreement)} would be another."
    if measured.retention is not None and measured.retention_ci is not None:
        said += " " + _promise(measured.retention, measured.retention_ci)
    return said


def _promise(retention: float, interval: tuple[float, float]) -> str:
    kept = f"It keeps {retention:.1%} of the base's score on the task"
    low, high = interval
    if low >= PROMISED_RETENTION:
        return f"{kept}, at least the promised {PROMISED_RETENTION:.1%}."
    if high < PROMISED_RETENTION:
        return f"{kept}, less than the promised {PROMISED_RETENTION:.1%}."
    return f"{kept}; the items are too few to tell whether that is the promised {PROMISED_RETENTION:.1%}."


def _one_in(share: float) -> str:
    return f"{1 / share:.0f}" if share < 0.1 else f"{1 / share:.1f}"  # noqa: PLR2004 - a rounding, not a rule

"""`edgeapp convert`: a checkpoint becomes a GGUF file in one pass."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from edgeapp import log
from edgeapp.cleantext import clean_line
from edgeapp.cli import conversion_progress
from edgeapp.cli.conversion_wording import quality_rows, summary_object, summary_rows
from edgeapp.cli.json_errors import json_errors
from edgeapp.cli.table import print_rows
from edgeapp.config import load_settings
from edgeapp.errors import UsageError
from edgeapp.hardware import read_host

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeapp_converters.events import Report
    from edgeapp_converters.opening import OpenedModel
    from edgeapp_converters.pipeline import ConversionOptions, ConversionResult, Verification

_EXAMPLES = """\b
Examples:
  edgeapp convert ./Qwen3-30B-A3B                              a folder of safetensors, recipe moe4
  edgeapp convert hf:allenai/OLMoE-1B-7B-0924-Instruct         stream it from the hub, shard by shard
  edgeapp convert model-bf16.gguf --recipe q4_k_m              requantise a GGUF of 8 bits or more
  edgeapp convert ./model --calibrate code --verify            importance matrix, and the measured loss
  edgeapp convert ./model --fit --max-vram 8G --max-ram 24G    the best file for such a machine
  edgeapp convert ./model --dry-run                            types and size, without converting
"""


@click.command(epilog=_EXAMPLES)
@click.argument("source")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="File to write. Default: NAME-RECIPE.gguf in the current folder.",
)
@click.option(
    "--recipe",
    help="Type of every tensor: a name from models/recipes, or a .toml file. "
    "Default: moe4; q4_k_m for a dense model; native when the experts are 4-bit already.",
)
@click.option(
    "--calibrate",
    metavar="TEXT",
    help="Collect an importance matrix first, on a bundled text (prose, code, …) or a file.",
)
@click.option(
    "--imatrix",
    "imatrix_file",
    type=click.Path(path_type=Path),
    help="Use this importance matrix (llama.cpp's GGUF format).",
)
@click.option("--fit", is_flag=True, help="Choose types by measured sensitivity, as many bits as fit memory.")
@click.option(
    "--max-vram", metavar="SIZE", help="With --fit: GPU memory, like 8G. Default: what is free now."
)
@click.option(
    "--max-ram", metavar="SIZE", help="With --fit: host memory, like 24G. Default: what is free now."
)
@click.option("--verify", is_flag=True, help="Measure the loss and write it into the file.")
@click.option("--text", metavar="TEXT", help="With --verify: text to measure on. Default: evaluation.")
@click.option("--pre", metavar="NAME", help="Pre-tokenizer (llama.cpp's name) when it is not recognised.")
@click.option("--bridge", is_flag=True, help="Read the checkpoint with llama.cpp's own converter.")
@click.option("--delete-shards", is_flag=True, help="Delete each downloaded shard once it is converted.")
@click.option("--threads", type=click.IntRange(1, 512), help="Threads. Default: one per physical core.")
@click.option("--force", is_flag=True, help="Replace an existing output file, once the new one is complete.")
@click.option("--dry-run", is_flag=True, help="Only say which types and size would result.")
@click.option("--offline/--online", default=None, help="Never touch the network. Default: --online.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(source: str, *, as_json: bool, offline: bool | None, **choices: Any) -> None:
    """Convert SOURCE to a 4-bit GGUF file in one pass, without an F16 file in between.

    SOURCE is a folder with safetensors, hf:org/repo, a GGUF file of F32, F16, BF16 or Q8_0, or `demo`. An
    interrupted conversion goes on where it stopped when the same command is run again.
    """
    settings = load_settings({"offline": offline})
    log.set_up(settings.log_level)
    with json_errors(as_json=as_json), conversion_progress.shown() as report:
        _refuse_contradictions(choices)
        _run(source, choices, as_json=as_json, offline=settings.offline, report=report)


def _refuse_contradictions(choices: dict[str, Any]) -> None:
    if choices["calibrate"] and choices["imatrix_file"]:
        raise UsageError("--calibrate and --imatrix both give an importance matrix.", hint="Choose one.")
    if choices["fit"] and choices["recipe"]:
        raise UsageError("--fit chooses the types itself, and --recipe names them.", hint="Choose one.")
    if not choices["fit"] and (choices["max_vram"] or choices["max_ram"]):
        raise UsageError("--max-vram and --max-ram say what to fit.", hint="Add --fit.")
    if choices["text"] and not choices["verify"]:
        raise UsageError("--text says what to measure on.", hint="Add --verify.")


def _run(source: str, choices: dict[str, Any], *, as_json: bool, offline: bool, report: Report) -> None:
    # The converters import numpy, which --help does not need.
    from edgeapp.cli import conversion_source
    from edgeapp_converters.pipeline import convert

    if choices["output"] is not None:
        _require_free(choices["output"], may_replace=choices["force"])
    complete = _options(choices)  # before the source is opened, which may take a download
    opened = conversion_source.open_source(
        source,
        pre=choices["pre"],
        bridge=choices["bridge"],
        keep_shards=not choices["delete_shards"],
        offline=offline,
        report=report,
    )
    try:
        options = complete(opened)
        if choices["dry_run"]:
            _print_plan(opened, options, as_json=as_json, report=report)
            return
        target = choices["output"] or Path(f"{opened.name}-{options.recipe_name}.gguf")
        _require_free(target, may_replace=choices["force"])
        result = convert(opened, target, options, report=report)
    except KeyboardInterrupt:
        click.echo("\nWhat is done is kept; the same command goes on from there.", err=True)
        raise
    finally:
        opened.source.close()
    _print_result(opened, result, as_json=as_json)


def _options(choices: dict[str, Any]) -> Callable[[OpenedModel], ConversionOptions]:
    """Check what was chosen, and return what makes options of it once the model is known."""
    from edgeapp_converters import budget, imatrix, texts
    from edgeapp_converters.pipeline import ConversionOptions
    from edgeapp_converters.recipe import default_recipe, load_recipe

    recipe = load_recipe(choices["recipe"]) if choices["recipe"] else None
    importance = imatrix.read(choices["imatrix_file"]).shrunk() if choices["imatrix_file"] else None
    calibration = texts.find(choices["calibrate"]) if choices["calibrate"] else None
    verification = _verification(choices["text"]) if choices["verify"] else None
    sizes = {name: choices[name] for name in ("max_vram", "max_ram")}
    for size in filter(None, sizes.values()):
        budget.parse_size(size)

    def complete(opened: OpenedModel) -> ConversionOptions:
        return ConversionOptions(
            recipe=recipe or default_recipe(opened.plan),
            n_threads=choices["threads"] or read_host().physical_cores,
            imatrix=importance,
            calibration=calibration,
            budget=budget.for_machine(opened.plan, **sizes) if choices["fit"] else None,
            verification=verification,
        )

    return complete


def _verification(text: str | None) -> Verification:
    from edgeapp_converters import retention, texts
    from edgeapp_converters.pipeline import Verification

    return Verification(text=texts.find(text or texts.EVALUATION), task=retention.bundled_task())


def _require_free(target: Path, *, may_replace: bool) -> None:
    shown = clean_line(str(target), max_chars=300)
    if target.suffix.lower() != ".gguf":
        raise UsageError(f"{shown} does not end in .gguf.", hint=f"-o {clean_line(target.name)}.gguf")
    if target.is_dir() or not target.parent.is_dir():
        raise UsageError(f"{shown} cannot be written there.", hint="Create its folder first.")
    if target.exists() and not may_replace:
        raise UsageError(f"{shown} exists already.", hint="Choose another name with -o, or add --force.")


# Output --------------------------------------------------------------------------------------------------


def _print_plan(opened: OpenedModel, options: ConversionOptions, *, as_json: bool, report: Report) -> None:
    from edgeapp_converters.pipeline import choose
    from edgeapp_converters.recipe import summary

    planned = summary(choose(opened, options, options.imatrix, report=report))
    if as_json:
        facts = {"source": opened.name, "recipe": options.recipe_name} | summary_object(planned)
        click.echo(msgspec.json.encode(facts))
        return
    click.echo(f"{clean_line(opened.name)} with recipe {options.recipe_name} would become")
    if options.budget is not None:
        click.echo(options.budget.reason)
    print_rows(summary_rows(planned))


def _print_result(opened: OpenedModel, result: ConversionResult, *, as_json: bool) -> None:
    if as_json:
        facts: dict[str, object] = {
            "path": str(result.path),
            "sha256": result.sha256,
            "bytes": result.n_bytes,
            "source": opened.name,
            "architecture": opened.plan.architecture,
            "recipe": result.recipe,
            "budget_bytes": result.budget and result.budget.file_bytes,
            "seconds": round(result.seconds, 3),
            "quality": result.quality and result.quality.as_json(),
        }
        click.echo(msgspec.json.encode(facts | summary_object(result.summary)))
        return
    rows = [("file", clean_line(str(result.path), max_chars=300)), ("recipe", result.recipe)]
    if result.budget is not None:
        rows.append(("budget", result.budget.reason))
    rows += summary_rows(result.summary)
    if result.quality is not None:
        rows += quality_rows(result.quality, base=result.quality_base)
    rows += [("sha256", result.sha256), ("took", f"{result.seconds:.0f} s")]
    print_rows(rows)

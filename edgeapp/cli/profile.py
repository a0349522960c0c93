"""`edgeapp profile`: which experts a model uses, for which text."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeapp import catalog, durable, log
from edgeapp.cleantext import clean_line
from edgeapp.cli import conversion_progress
from edgeapp.cli.json_errors import json_errors
from edgeapp.config import load_settings
from edgeapp.errors import UnsupportedModel, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.experts import TextUsage, UsageProfile
    from edgeapp.gguf_info import GgufInfo
    from edgeapp.runtime.worker_client import WorkerClient
    from edgeapp_converters.events import Report
    from edgeapp_converters.texts import NamedText

_EXAMPLES = """\b
Examples:
  edgeapp profile model.gguf --text report.txt                 which experts this text uses
  edgeapp profile model.gguf --text prose --text code          do they differ? bundled texts by name
  edgeapp profile model.gguf --text code --svg experts.svg     a picture for a report
  edgeapp profile model.gguf --text all --output usage.json    the counts for other programs
"""
DEFAULT_TOKENS = 4096
_DEFAULT_TEXT = "evaluation"


@click.command(epilog=_EXAMPLES)
@click.argument("model")
@click.option(
    "--text",
    "texts",
    metavar="TEXT",
    multiple=True,
    help="Text to read, a file or a bundled one; may be given several times. Default: evaluation.",
)
@click.option(
    "--tokens",
    type=click.IntRange(min=1),
    default=DEFAULT_TOKENS,
    show_default=True,
    help="Read at most this many tokens of each text.",
)
@click.option(
    "--ctx",
    type=click.IntRange(32, 1 << 20),
    default=512,
    show_default=True,
    help="Tokens that are read as one context.",
)
@click.option("--threads", type=click.IntRange(1, 512), help="Threads. Default: one per physical core.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as one JSON object.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the counts to this file, as JSON.")
@click.option("--svg", type=click.Path(path_type=Path), help="Write the picture to this file, as SVG.")
def command(model: str, texts: tuple[str, ...], *, as_json: bool, **choices: Any) -> None:
    """Count which experts of MODEL each layer uses for a text.

    Shows the counts as a heat map, says how evenly the experts are used and which never are, and with several
    texts how differently. MODEL is the path of a .gguf file, a catalog name, or a model of the hub that has
    been downloaded.
    """
    from edgeapp_converters.texts import find

    log.set_up(load_settings({}).log_level)
    with json_errors(as_json=as_json):
        named = [find(text) for text in texts or (_DEFAULT_TEXT,)]
        for target in (choices["output"], choices["svg"]):
            _check_folder(target)
        info = _routed(catalog.resolve_local(model))
        with conversion_progress.shown() as report:
            profile = asyncio.run(_profile(info, named, choices, report))
        _write(profile, output=choices["output"], svg=choices["svg"])
    _show(profile, as_json=as_json)


def _check_folder(target: Path | None) -> None:
    """Find out before the work, not after it, that a result has nowhere to go."""
    if target is not None and not target.resolve().parent.is_dir():
        raise UsageError(
            f"There is no folder {clean_line(str(target.parent), max_chars=200)}.", hint="Create it first."
        )


def _routed(path: Path) -> GgufInfo:
    """Return what the model at `path` is. Raise `UnsupportedModel` for a dense one, `ModelError` for none."""
    from edgeapp.gguf_info import read_gguf_info

    info = read_gguf_info(path)
    if not info.is_moe:
        raise UnsupportedModel(
            f"{clean_line(path.name, max_chars=80)} is dense: it has no experts whose use could be counted.",
            hint="`edgeapp inspect` says how many experts a model has.",
        )
    return info


async def _profile(
    info: GgufInfo, texts: Sequence[NamedText], choices: dict[str, Any], report: Report
) -> UsageProfile:
    from edgeapp.experts import UsageProfile
    from edgeapp.runtime.expert_profile import watching_load
    from edgeapp.runtime.worker_client import WorkerClient

    load = await watching_load(info.path, n_ctx=choices["ctx"], n_threads=choices["threads"] or 0)
    client = WorkerClient(load)
    try:
        used = [await _text_usage(client, text, n_tokens=choices["tokens"], report=report) for text in texts]
    finally:
        await client.aclose()
    return UsageProfile(
        model=clean_line(info.path.name, max_chars=200),
        n_expert=info.n_expert,
        n_expert_used=info.n_expert_used,
        texts=tuple(used),
    )


async def _text_usage(client: WorkerClient, text: NamedText, *, n_tokens: int, report: Report) -> TextUsage:
    from edgeapp.runtime.expert_profile import expert_usage
    from edgeapp.runtime.measuring import tokenize_text
    from edgeapp_converters.events import StageProgress

    tokens = await tokenize_text(client, text.text, max_tokens=n_tokens)

    def on_progress(done: int) -> None:
        report(StageProgress(stage="measuring", done=done, total=len(tokens), unit="tokens", label=text.name))

    return await expert_usage(client, tokens, name=text.name, on_progress=on_progress)


# Output --------------------------------------------------------------------------------------------------


def _write(profile: UsageProfile, *, output: Path | None, svg: Path | None) -> None:
    from edgeapp.experts.svg import svg as picture
    from edgeapp.experts.usage import to_json

    if output is not None:
        _write_file(output, to_json(profile) + b"\n")
    if svg is not None:
        _write_file(svg, picture(profile).encode())


def _write_file(path: Path, data: bytes) -> None:
    try:
        durable.write(path, data)
    except OSError as problem:
        shown = clean_line(str(path), max_chars=200)
        raise UsageError(
            f"{shown} cannot be written: {problem.strerror or problem}.", hint="Choose another file."
        ) from problem


def _show(profile: UsageProfile, *, as_json: bool) -> None:
    from edgeapp.experts.usage import to_json

    if as_json:
        click.echo(to_json(profile))
        return
    from edgeapp.cli.expert_tables import print_differences, print_heat_maps, print_texts

    print_heat_maps(profile)
    print_texts(profile)
    print_differences(profile)

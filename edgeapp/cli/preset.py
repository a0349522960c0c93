"""`edgeapp preset`: list, show, make, use and test task presets."""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from edgeapp import durable, log
from edgeapp.cleantext import clean, clean_line
from edgeapp.cli.json_errors import json_errors
from edgeapp.cli.run_flags import setting_flags
from edgeapp.cli.table import print_columns
from edgeapp.config import load_settings
from edgeapp.errors import EngineError, UsageError
from edgeapp.presets import (
    Preset,
    all_presets,
    is_valid,
    load_preset,
    own_dir,
    read_cases,
    read_preset,
    write_preset,
)
from edgeapp.presets.files import read_capped
from edgeapp.presets.format import MAX_FILE_BYTES
from edgeapp.presets.imports import from_fabric, from_modelfile, preset_name
from edgeapp.presets.library import path_of, to_toml

if TYPE_CHECKING:
    from edgeapp.cli.job import Job
    from edgeapp.cli.preset_job import Question

_EXAMPLES = """\b
Examples:
  edgeapp preset list
  edgeapp preset show extract
  edgeapp preset run extract --var text=@invoice.txt --json
  git diff --staged | edgeapp preset run commit-message
  edgeapp preset test classify --model gpt-oss-20b
  edgeapp preset new my-task --from extract
  edgeapp preset import ./Modelfile --name my-task
"""
_RUN_EXAMPLES = """\b
Examples:
  edgeapp preset run summarise < report.txt
  edgeapp preset run translate --var language=German --var text="Good morning."
  edgeapp preset run extract --var text=@invoice.txt --json
"""
_TEST_EXAMPLES = """\b
Examples:
  edgeapp preset test classify
  edgeapp preset test classify --model moe.gguf --experts 4 --json | jq .accuracy
"""


@click.group(epilog=_EXAMPLES)
def command() -> None:
    """Use task presets: instructions, variables and answer form for one kind of work.

    They come with edgeapp; your own, in the folder of config.toml, take the place of one with the same name.
    """


@command.command("list", epilog="Example: edgeapp preset list --json")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def list_command(*, as_json: bool) -> None:
    """List the presets."""
    found = all_presets()
    if as_json:
        rows = [
            {
                "name": shelved.name,
                "own": shelved.is_own,
                "description": shelved.preset.description if shelved.preset else None,
                "problem": shelved.problem.message if shelved.problem else None,
            }
            for shelved in found
        ]
        click.echo(msgspec.json.encode(rows))
        return
    cells = [
        (
            clean_line(shelved.name, max_chars=60),
            "own" if shelved.is_own else "",
            clean_line(shelved.preset.description if shelved.preset else f"broken: {shelved.problem}"),
        )
        for shelved in found
    ]
    print_columns([("NAME", "", "DESCRIPTION"), *cells])


@command.command("show", epilog="Example: edgeapp preset show extract")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show_command(name: str, *, as_json: bool) -> None:
    """Print the preset NAME."""
    preset = load_preset(name)
    click.echo(msgspec.json.encode(preset) if as_json else clean(to_toml(preset)))


@command.command("new", epilog="Example: edgeapp preset new my-task --from extract")
@click.argument("name")
@click.option("--from", "origin", default="general", show_default=True, help="Preset to begin with.")
@click.option("--replace", is_flag=True, help="Overwrite your preset of this name.")
def new_command(name: str, origin: str, *, replace: bool) -> None:
    """Make a preset of your own from another one."""
    click.echo(write_preset(_copy(load_preset(origin), name), replace=replace))


@command.command("edit", epilog="Example: edgeapp preset edit my-task")
@click.argument("name")
def edit_command(name: str) -> None:
    """Open your preset NAME in $EDITOR; of one that ships, a copy of your own.

    What the file says is checked when the editor ends.
    """
    path = path_of(name)
    if path.parent != own_dir():
        path = write_preset(_copy(read_preset(path), name))
    click.edit(filename=str(path))
    load_preset(name)
    click.echo(path)


@command.command("run", epilog=_RUN_EXAMPLES)
@click.argument("name")
@click.option("--var", "variables", multiple=True, metavar="NAME=VALUE", help="A variable; @path is a file.")
@click.option("--model", help="Model to use. Default: the embedded demo.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="With a JSON schema print only the answer, checked; else an object as `edgeapp run --json` does.",
)
@setting_flags
def run_command(
    name: str, variables: tuple[str, ...], model: str | None, *, as_json: bool, **flags: Any
) -> None:
    """Answer once with the preset NAME.

    Standard input, where something is piped in, is the first text that no --var gives.
    """
    from edgeapp.cli.answer import answer
    from edgeapp.cli.preset_job import preset_job, question
    from edgeapp.cli.preset_values import read_values

    log.set_up(load_settings({"log_level": flags.get("log_level")}).log_level)
    with json_errors(as_json=as_json):
        preset = load_preset(name)
        asked = question(preset, read_values(preset, variables))
        job = preset_job(preset, model, flags)
        if as_json and preset.schema:
            click.echo(asyncio.run(_checked_answer(preset, job, asked)))
            return
    sys.exit(asyncio.run(answer(job, asked.prompt, as_json=as_json, before=asked.before)))


@command.command("test", epilog=_TEST_EXAMPLES)
@click.argument("name")
@click.option("--model", help="Model to test. Default: the embedded demo.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@setting_flags
def test_command(name: str, model: str | None, *, as_json: bool, **flags: Any) -> None:
    """Grade a model on the cases of the preset NAME.

    Prints the share of right answers with its 95 % interval (Wilson), how many are JSON that the schema
    allows, tokens and time. Wrong answers go to stderr. The seed is 0 unless --seed or the preset says
    another, so that a test can be repeated.
    """
    from edgeapp.cli.preset_job import preset_job
    from edgeapp.cli.preset_report import run_cases

    log.set_up(load_settings({"log_level": flags.get("log_level")}).log_level)
    with json_errors(as_json=as_json):
        preset = load_preset(name)
        if not preset.tests:
            raise UsageError(
                f"The preset {preset.name} has no tests.", hint='Write tests = "FILE.jsonl" into it.'
            )
        cases = read_cases(path_of(name).parent / "tests" / preset.tests)
        preset = msgspec.structs.replace(preset, sampling={"seed": 0} | preset.sampling)
        report = run_cases(preset, preset_job(preset, model, flags), cases)
    if as_json:
        click.echo(msgspec.json.encode(report.as_json()))
    else:
        report.print()


@command.command("import", epilog="Example: edgeapp preset import patterns/summarize")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--name", help="Name of the preset. Default: that of the file or folder.")
@click.option("--replace", is_flag=True, help="Overwrite your preset of this name.")
def import_command(source: Path, name: str | None, *, replace: bool) -> None:
    """Take over a preset: a TOML file, an Ollama Modelfile, or the folder of a Fabric pattern."""
    preset, notes = _imported(source, name or preset_name(source.resolve().stem))
    if source.suffix == ".toml" and name:
        preset = msgspec.structs.replace(preset, name=name)
    path = write_preset(preset, replace=replace)
    for note in notes:
        click.echo(f"note: {note}", err=True)
    click.echo(path)


@command.command("export", epilog="Example: edgeapp preset export extract -o extract.toml")
@click.argument("name")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write. Default: stdout.")
def export_command(name: str, output: Path | None) -> None:
    """Write the preset NAME as one TOML file, its schema in it, its tests left out."""
    text = to_toml(msgspec.structs.replace(load_preset(name), tests=""))
    if output is None:
        click.echo(clean(text), nl=False)
    else:
        durable.write(output, text.encode())
        click.echo(output)


def _copy(preset: Preset, name: str) -> Preset:
    """Tests stay with the original: the copy is another task soon."""
    return msgspec.structs.replace(preset, name=name, tests="")


def _imported(source: Path, name: str) -> tuple[Preset, tuple[str, ...]]:
    if source.is_dir():
        user = source / "user.md"
        system = read_capped(source / "system.md", max_bytes=MAX_FILE_BYTES)
        request = read_capped(user, max_bytes=MAX_FILE_BYTES) if user.is_file() else ""
        return from_fabric(clean(system), clean(request), name=name), ()
    if source.suffix == ".toml":
        return _copy(preset := read_preset(source), preset.name), ()
    return from_modelfile(read_capped(source, max_bytes=MAX_FILE_BYTES), name=name)


async def _checked_answer(preset: Preset, job: Job, asked: Question) -> str:
    """Return the answer. Raise `EngineError` for one that was cut off, or that the schema does not allow."""
    from edgeapp.cli.preset_job import answers

    async with aclosing(answers(job, [asked])) as arriving:
        answer = await anext(arriving)
    if answer.is_whole and is_valid(answer.text, preset.schema):
        return answer.text.strip()
    raise EngineError(
        f"The answer is not the JSON that {preset.name} asks for: it ended after "
        f"{answer.done.usage.completion_tokens} tokens ({answer.done.finish_reason}).",
        hint="Raise --max-tokens or --ctx, or take a larger model.",
    )

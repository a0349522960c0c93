"""From a TOML file to a `Preset`, checked field by field. Knows no engine and where no file lies."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edgeapp.cleantext import clean_line
from edgeapp.config import check_key
from edgeapp.config.checking import check
from edgeapp.errors import ConfigError
from edgeapp.presets.files import read_capped
from edgeapp.presets.template import names_in

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_FILE_BYTES = 256 * 1024
MAX_KEY_PARTS = 16
SAMPLING_NAMES = (
    "temp",
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "xtc_probability",
    "xtc_threshold",
    "dynatemp_range",
    "mirostat",
    "repeat_penalty",
    "frequency_penalty",
    "presence_penalty",
    "dry_multiplier",
    "seed",
    "max_tokens",
)
"""Settings that `[sampling]` may hold."""

NAME_PATTERN = r"^[a-z][a-z0-9-]{0,39}$"
Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
VariableName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Text = Annotated[str, Meta(max_length=100_000)]
Scalar = str | int | float


class Variable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A hole in the template."""

    name: VariableName
    type: Literal["text", "number", "choice", "file", "image"] = "text"
    description: Annotated[str, Meta(max_length=500)] = ""
    choices: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=200)], ...], Meta(max_length=64)
    ] = ()
    default: Scalar | None = None
    required: bool = True
    """A required variable without a default has to be given; others are empty."""


class Example(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question with its answer. A table as `input` holds values for the template."""

    input: str | dict[str, Scalar]
    output: Annotated[str, Meta(min_length=1, max_length=100_000)]


class Preset(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model is told for one kind of work."""

    name: Name
    description: Annotated[str, Meta(min_length=1, max_length=500)]
    system: Text = ""
    template: Text = "{{ text }}"
    variables: Annotated[tuple[Variable, ...], Meta(max_length=32)] = (Variable(name="text"),)
    sampling: dict[str, Any] = {}
    think: Literal["auto", "on", "off"] = "auto"
    schema: str = ""
    """JSON schema: as text, or in the file the name of a file beside it."""
    grammar: str = ""
    """GBNF."""
    regex: str = ""
    examples: Annotated[tuple[Example, ...], Meta(max_length=64)] = ()
    stop: Annotated[tuple[str, ...], Meta(max_length=16)] = ()
    ctx: int = 0
    experts: int = 0
    adapter: str = ""
    """Path of a LoRA adapter, with `=SCALE` where it is not 1; relative to the preset's file."""
    workload: Literal["chat", "prefill", "kiosk"] = "chat"
    tests: Annotated[str, Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]*\.jsonl)?$")] = ""
    """File of graded cases in the folder `tests` beside the preset."""

    @property
    def settings(self) -> dict[str, object]:
        """Every setting that the preset chooses, by its name."""
        chosen: dict[str, object] = dict(self.sampling)
        if self.think != "auto":
            chosen["think"] = self.think
        chosen |= {key: value for key, value in (("ctx", self.ctx), ("experts", self.experts)) if value}
        return chosen


def read_preset(path: Path) -> Preset:
    """Return the preset in the file `path`. Raise `ConfigError`."""
    preset = parse_preset(read_capped(path, max_bytes=MAX_FILE_BYTES), where=clean_line(str(path)))
    if preset.schema and not preset.schema.lstrip().startswith("{"):
        preset = msgspec.structs.replace(preset, schema=_schema_file(path, preset.schema))
    if preset.adapter and not Path(preset.adapter).is_absolute():
        preset = msgspec.structs.replace(preset, adapter=str(path.parent.resolve() / preset.adapter))
    return preset


def parse_preset(text: str, *, where: str) -> Preset:
    """Return the preset in a TOML text; `where` begins every error. Raise `ConfigError`."""
    _refuse_long_keys(text, where=where)
    try:
        preset = msgspec.toml.decode(text, type=Preset)
    except RecursionError as problem:
        raise ConfigError(f"{where} is nested too deeply to be a preset.") from problem
    except msgspec.DecodeError as problem:  # a ValidationError names the field
        raise ConfigError(
            f"{where}: {clean_line(str(problem))}.", hint="models/README.md describes each field of a preset."
        ) from problem
    return check_preset(preset, where=where)


def _refuse_long_keys(text: str, *, where: str) -> None:
    """A dotted key costs the square of its parts in memory: 100,000 of them are gigabytes."""
    for number, line in enumerate(text.splitlines(), start=1):
        bare = re.sub(r'"[^"]*"|\'[^\']*\'', "q", line)
        run = 0
        for part in bare.split("."):
            run = run + 1 if part.strip() and len(part.split()) == 1 else 0
            if run > MAX_KEY_PARTS:
                raise ConfigError(f"{where}:{number}: a key has more than {MAX_KEY_PARTS} parts.")


def check_preset(preset: Preset, *, where: str) -> Preset:
    """Return `preset` if its fields fit each other. Raise `ConfigError`."""
    _check_settings(preset, where=where)
    _check_variables(preset.variables, where=where)
    if len([rule for rule in (preset.schema, preset.grammar, preset.regex) if rule]) > 1:
        raise ConfigError(
            f"{where}: schema, grammar and regex exclude each other.",
            hint="An answer follows one: leave one.",
        )
    if preset.schema.lstrip().startswith("{"):
        _check_schema(preset.schema, where=f"{where}: schema")
    known = {variable.name for variable in preset.variables}
    used = names_in(preset.template, where=f"{where}: template")
    if missing := sorted(used - known):
        raise ConfigError(
            f"{where}: the template uses {missing[0]!r}, which is no variable.",
            hint="Add it as [[variables]].",
        )
    images = {variable.name for variable in preset.variables if variable.type == "image"}
    if unused := sorted(known - used - images):
        raise ConfigError(
            f"{where}: the variable {unused[0]!r} is not in the template.",
            hint=f"Write {{{{ {unused[0]} }}}} where its value belongs.",
        )
    _check_examples(preset, known, where=where)
    return preset


def _check_examples(preset: Preset, known: set[str], *, where: str) -> None:
    for number, example in enumerate(preset.examples, start=1):
        if isinstance(example.input, dict) and (unknown := sorted(set(example.input) - known)):
            shown = clean_line(unknown[0], max_chars=40)
            raise ConfigError(f"{where}: example {number} has a value for {shown!r}, which is no variable.")


def _check_settings(preset: Preset, *, where: str) -> None:
    for key, value in preset.sampling.items():
        check_key(key, where=f"{where}: sampling")
        if key not in SAMPLING_NAMES:
            raise ConfigError(
                f"{where}: {key} does not belong into [sampling].",
                hint=f"There it is one of {', '.join(SAMPLING_NAMES)}.",
            )
        check(key, value, where=f"{where}: sampling", strict=True)
    check("ctx", preset.ctx, where=where, strict=True)
    check("experts", preset.experts, where=where, strict=True)


def _check_variables(variables: Sequence[Variable], *, where: str) -> None:
    seen: set[str] = set()
    for variable in variables:
        place = f"{where}: variable {variable.name!r}"
        if variable.name in seen:
            raise ConfigError(f"{place} is there twice.", hint="Rename one.")
        seen.add(variable.name)
        if (variable.type == "choice") != bool(variable.choices):
            raise ConfigError(f"{place}: choices belong to the type choice, and to no other.")
        _check_default(variable, place)


def _check_default(variable: Variable, place: str) -> None:
    default = variable.default
    if default is None:
        return
    if variable.type == "choice" and default not in variable.choices:
        raise ConfigError(f"{place}: the default is none of its choices.")
    if variable.type == "number" and isinstance(default, str):
        raise ConfigError(f"{place}: the default must be a number.", hint="Write it without quotes.")
    if variable.type in ("file", "image"):
        raise ConfigError(f"{place}: a {variable.type} has no default.", hint="Leave default out.")
    if variable.type != "number" and not isinstance(default, str):
        raise ConfigError(f"{place}: the default must be a text.", hint="Write it in quotes.")


def _check_schema(text: str, *, where: str) -> None:
    try:
        schema = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as problem:
        raise ConfigError(f"{where} is not JSON: {clean_line(str(problem))}.") from problem
    if not isinstance(schema, dict):
        raise ConfigError(f"{where} is no JSON object.")


def _schema_file(path: Path, name: str) -> str:
    shown = clean_line(str(path))
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ConfigError(
            f"{shown}: schema is neither a JSON object nor the name of a file.",
            hint='Write schema = \'{"type": "object"}\', or the name of a file beside the preset.',
        )
    text = read_capped(path.parent / name, max_bytes=MAX_FILE_BYTES)
    _check_schema(text, where=f"{shown}: {name}")
    return text

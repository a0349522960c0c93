"""The graded cases of a preset: one JSON object a line. Knows no model."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from edgeapp.cleantext import clean_line
from edgeapp.errors import ConfigError
from edgeapp.presets.files import read_capped
from edgeapp.presets.format import Scalar  # noqa: TC001 - msgspec reads annotations

if TYPE_CHECKING:
    from pathlib import Path

MAX_CASES_BYTES = 4 * 1024 * 1024
MAX_CASES = 10_000


class Case(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Values for the template, and how the answer is graded."""

    values: dict[str, Scalar]
    grader: Literal["exact", "contains", "regex", "json", "choice", "number", "valid"]
    answer: Annotated[str, Meta(min_length=1)]
    """An answer that is right."""
    all: tuple[str, ...] = ()
    """contains: texts that must be there, in any case."""
    none: tuple[str, ...] = ()
    """contains: texts that must not."""
    pattern: str = ""
    """regex: must be found."""
    fields: dict[str, Scalar | bool | None] = {}
    """json: the value at each path, such as `items.0.name`."""
    label: str = ""
    """choice: the right one of the labels."""
    labels: tuple[str, ...] = ()
    value: float = 0
    """number: the last number of the answer is this, within `tolerance`."""
    tolerance: Annotated[float, Meta(ge=0)] = 0


_decoder = msgspec.json.Decoder(Case)


def read_cases(path: Path) -> tuple[Case, ...]:
    """Return the cases in `path`. Raise `ConfigError` with the line."""
    shown = clean_line(str(path))
    lines = read_capped(path, max_bytes=MAX_CASES_BYTES).split("\n")
    cases = tuple(
        _parsed(line, where=f"{shown}:{number}") for number, line in enumerate(lines, start=1) if line.strip()
    )
    if not 0 < len(cases) <= MAX_CASES:
        raise ConfigError(f"{shown} has {len(cases)} cases; it needs 1 to {MAX_CASES}.")
    return cases


def _parsed(line: str, *, where: str) -> Case:
    try:
        case = _decoder.decode(line)
    except (msgspec.DecodeError, RecursionError) as problem:
        raise ConfigError(
            f"{where}: {clean_line(str(problem))}.", hint="models/README.md describes each field of a case."
        ) from problem
    needed = {
        "contains": case.all or case.none,
        "regex": case.pattern,
        "json": case.fields,
        "choice": case.label,
    }
    if not needed.get(case.grader, True):
        raise ConfigError(f"{where}: the grader {case.grader} is not told what to look for.")
    try:
        re.compile(case.pattern)
    except (re.error, RecursionError, OverflowError) as problem:
        raise ConfigError(f"{where}: pattern: {clean_line(str(problem))}.") from problem
    return case

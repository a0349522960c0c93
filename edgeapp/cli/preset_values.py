"""The values of a preset's variables: from `--var NAME=VALUE`, files and standard input."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edgeapp.cleantext import clean, clean_line
from edgeapp.cli.chat_settings import well_formed
from edgeapp.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.presets import Preset, Variable

MAX_FILE_BYTES = 4 * 1024 * 1024
"""More text than a context holds."""


def read_values(preset: Preset, given: Sequence[str]) -> dict[str, str]:
    """Return the values, `@path` read and cleaned; what is piped in is the first text that is missing.

    Raise `UsageError`.
    """
    known = {variable.name: variable for variable in preset.variables}
    values: dict[str, str] = {}
    for text in given:
        name, sign, value = well_formed(text).partition("=")
        if not sign:
            raise UsageError(
                f"--var {clean_line(text, max_chars=60)!r} has no value.", hint="Write --var NAME=VALUE."
            )
        values[name] = _value(known.get(name), value)
    missing = [v.name for v in preset.variables if v.type in ("text", "file") and v.name not in values]
    if missing and _is_piped():
        values[missing[0]] = _text(sys.stdin.buffer.read(MAX_FILE_BYTES + 1), "Standard input")
    return values


def _value(variable: Variable | None, value: str) -> str:
    """A file is named with or without `@`; `@@` begins a text with one."""
    kind = variable.type if variable else "text"
    if kind == "image":
        return value.removeprefix("@")
    if value.startswith("@@"):
        return clean(value[1:])
    if value.startswith("@"):
        return _file(Path(value[1:]))
    return _file(Path(value)) if kind == "file" else clean(value)


def _file(path: Path) -> str:
    shown = clean_line(str(path), max_chars=120)
    try:
        if not path.is_file():
            raise UsageError(f"There is no file {shown}.", hint="A text that begins with @ is written @@.")
        with path.open("rb") as file:
            return _text(file.read(MAX_FILE_BYTES + 1), shown)
    except (OSError, ValueError) as problem:
        raise UsageError(f"{shown} cannot be read: {clean_line(str(problem))}.") from problem


def _text(data: bytes, what: str) -> str:
    if len(data) > MAX_FILE_BYTES:
        raise UsageError(f"{what} is larger than {MAX_FILE_BYTES >> 20} MiB.", hint="Give a part of it.")
    try:
        return clean(data.decode("utf-8-sig")).strip("\n")
    except UnicodeDecodeError as problem:
        raise UsageError(f"{what} is not UTF-8 text (byte {problem.start}).") from problem


def _is_piped() -> bool:
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)

"""What an answer must match, from the flags that say so: JSON schema, GBNF or regular expression.

Reads files and knows what is no JSON; whether a grammar can be used is the engine's to say.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgeapp.cleantext import clean_line
from edgeapp.cli.chat_settings import well_formed
from edgeapp.errors import GrammarError, UsageError
from edgeapp.protocol import Grammar

if TYPE_CHECKING:
    from edgeapp.cli.run_flags import RunChoices

MAX_FILE_BYTES = 256 * 1024
"""More than the engine takes of a schema or a grammar."""


def read_grammar(choices: RunChoices) -> Grammar | None:
    """Return the grammar that was asked for, if any. Raise `UsageError` or `GrammarError`."""
    given = [
        flag
        for flag, value in (
            ("--json-schema", choices.json_schema),
            ("--grammar", choices.grammar),
            ("--regex", choices.regex),
        )
        if value is not None
    ]
    if len(given) > 1:
        raise UsageError(
            f"{' and '.join(given)} exclude each other.", hint="An answer follows one grammar: leave one."
        )
    if choices.json_schema is not None:
        return Grammar(kind="json_schema", source=_json_schema(choices.json_schema))
    if choices.grammar is not None:
        return Grammar(kind="gbnf", source=_read(choices.grammar))
    if choices.regex is not None:
        return Grammar(kind="regex", source=well_formed(choices.regex))
    return None


def _json_schema(given: str) -> str:
    """Return the text of the schema: of the file `given`, if there is one, else `given` itself."""
    path = Path(given)
    if _exists(path):
        return _checked(_read(path), what=_shown(path))
    if not given.lstrip().startswith("{"):
        raise UsageError(
            f"--json-schema: {_shown(path)} is neither a file nor a JSON object.",
            hint='Write a schema like {"type": "object"}, or the path of a file with one.',
        )
    return _checked(well_formed(given), what="the text")


def _checked(text: str, *, what: str) -> str:
    try:
        schema = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as problem:
        raise GrammarError(
            f"--json-schema: {what} is not JSON: {clean_line(str(problem))}.", hint="Correct it."
        ) from problem
    if not isinstance(schema, dict):
        raise GrammarError(f"--json-schema: {what} is no JSON object.", hint='Write {"type": "object", …}.')
    return text


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as problem:
        raise UsageError(f"{_shown(path)} cannot be read: {problem.strerror or problem}.") from problem
    if len(data) > MAX_FILE_BYTES:
        raise GrammarError(
            f"{_shown(path)} is larger than {MAX_FILE_BYTES // 1024} KiB, the most for a schema or grammar."
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise GrammarError(f"{_shown(path)} is not UTF-8 text (byte {problem.start}).") from problem


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a schema is longer than a file name may be
        return False


def _shown(path: Path) -> str:
    return clean_line(str(path), max_chars=100)

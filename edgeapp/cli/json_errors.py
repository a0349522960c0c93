"""With --json a failure is a JSON object on stdout too; the sentence for people stays on stderr."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
import msgspec

from edgeapp.errors import EdgeappError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def json_errors(*, as_json: bool) -> Iterator[None]:
    """Print `{"error": {…}}` for an `EdgeappError` that passes through, when `as_json`; let it pass."""
    try:
        yield
    except EdgeappError as problem:
        if as_json:
            click.echo(error_line(problem))
        raise


def error_line(problem: EdgeappError) -> bytes:
    """Return the JSON object that stands for `problem`."""
    error = {"code": problem.code, "message": problem.message, "hint": problem.hint}
    return msgspec.json.encode({"error": error})

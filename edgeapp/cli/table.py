"""Labels and values as two columns, and tables with a heading, as several subcommands print them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence


def print_rows(rows: list[tuple[str, str]], *, err: bool = False) -> None:
    """Print `rows` on stdout, or with `err` on stderr; the values begin in one column."""
    width = max(len(label) for label, _ in rows)
    for label, value in rows:
        click.echo(f"{label:<{width}}  {value}", err=err)


def print_columns(rows: Sequence[tuple[str, ...]]) -> None:
    """Print `rows`, the first of which is the heading; every column begins in one place."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())

"""Labels and values as two columns, as several subcommands print them."""

from __future__ import annotations

import click


def print_rows(rows: list[tuple[str, str]], *, err: bool = False) -> None:
    """Print `rows` on stdout, or with `err` on stderr; the values begin in one column."""
    width = max(len(label) for label, _ in rows)
    for label, value in rows:
        click.echo(f"{label:<{width}}  {value}", err=err)

"""What a model thinks before it answers, dimmed on stderr for who looks at it; never on stdout."""

from __future__ import annotations

import sys

import click


class Thoughts:
    """Shows the thoughts of one answer when stderr is a terminal, and sets the answer apart from them."""

    def __init__(self) -> None:
        self._is_shown = sys.stderr.isatty()
        self._is_open = False

    def write(self, text: str) -> None:
        """Show a piece of the thoughts."""
        if self._is_shown:
            self._is_open = True
            click.secho(text, dim=True, nl=False, err=True)

    def end(self) -> None:
        """The answer begins here, or there is none."""
        if self._is_open:
            self._is_open = False
            click.echo("\n", err=True)

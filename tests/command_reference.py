"""Write the command reference from --help: `python -m tests.command_reference docs/cli.md`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeapp.cli import cli

if TYPE_CHECKING:
    from collections.abc import Iterator

_WIDTH_CELLS = 100
_HEAD = """# Commands

Made from `--help` by `make docs`; a test compares the two.
"""


def render() -> str:
    """Return the whole page."""
    sections = [
        f"## {path}\n\n```text\n{text.rstrip()}\n```\n" for path, text in _helps(cli, "edgeapp", None)
    ]
    return "\n".join([_HEAD, *sections])


def _helps(command: click.Command, path: str, parent: click.Context | None) -> Iterator[tuple[str, str]]:
    context = click.Context(
        command,
        info_name=path.rpartition(" ")[2],
        parent=parent,
        terminal_width=_WIDTH_CELLS,
        max_content_width=_WIDTH_CELLS,
        help_option_names=["-h", "--help"],
    )
    yield path, command.get_help(context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            sub = command.get_command(context, name)
            assert sub is not None
            yield from _helps(sub, f"{path} {name}", context)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render(), encoding="utf-8")

"""The command line: names the subcommands, imports one only when it is called, prints errors.

Nothing heavy is imported here, so that `edgeapp --help` answers at once.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import click

from edgeapp import __version__
from edgeapp.errors import EdgeappError

_COMMANDS = {
    "run": "Chat with a model, or answer one prompt.",
    "convert": "Convert a checkpoint to a 4-bit GGUF file.",
    "plan": "Say where a model would go on this machine, how fast, and why.",
    "inspect": "Say what a GGUF file is, without loading it.",
    "quality": "Measure what a quantised model lost.",
    "top": "Watch memory, GPUs and running models.",
    "bench": "Measure how fast a model reads and writes here.",
    "tune": "Find the fastest way to run a model here, by measuring.",
    "profile": "Show which experts a model uses, for which text.",
    "preset": "Use task presets: instructions and a form of answer for one kind of work.",
    "history": "List, search, read, move and delete conversations.",
    "models": "List, download, check and remove models.",
    "doctor": "Check this machine and say how to fix what is missing.",
    "config": "Show and change settings.",
}
"""Every subcommand with its one-line help; `edgeapp.cli.<name>.command` implements it."""


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        command = importlib.import_module(f"edgeapp.cli.{cmd_name}").command
        assert isinstance(command, click.Command)  # noqa: S101 - every module in _COMMANDS defines one
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with `edgeapp run`, which opens a chat with the embedded demo model.",
)
@click.version_option(__version__, "-V", "--version", message="edgeapp %(version)s")
def cli() -> None:
    """Run Mixture-of-Experts models fast and reliably on one consumer GPU."""


def main() -> None:
    """Run the command line and exit: 0 done, 1 failure, 2 usage, 130 interrupted."""
    _complete_standard_streams()
    try:
        # Without standalone mode click returns the code of `ctx.exit(n)`, and None from a command that ended.
        sys.exit(cli.main(standalone_mode=False) or 0)
    except click.ClickException as problem:
        problem.show()
        sys.exit(problem.exit_code)
    except EdgeappError as problem:
        print_error(problem)
        sys.exit(problem.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        # The reader went away (`edgeapp models | head`): say nothing, as other Unix tools do.
        sys.stdout = None
        sys.exit(141)
    except OSError as problem:  # a full disk behind `>`, no more file descriptors, …
        sys.stdout = None
        print_error(EdgeappError(f"The system refused: {problem.strerror or problem}."))
        sys.exit(1)


def _complete_standard_streams() -> None:
    """Stand in for streams that were closed (`<&-`), and let none fail on a character it cannot encode."""
    sys.stdin = sys.stdin or Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115 - for the process's life
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
        stream.reconfigure(errors="replace")
        setattr(sys, name, stream)


def print_error(problem: EdgeappError) -> None:
    """Write the sentence and its hint to stderr."""
    click.echo(f"{click.style('error:', fg='red', bold=True)} {problem.message}", err=True)
    if problem.hint:
        click.echo(f"{click.style('hint:', fg='cyan')} {problem.hint}", err=True)

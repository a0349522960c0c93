"""The flags that say what a placement may use: the same for `run`, `plan` and `tune`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgeapp.cli.placement_wishes import DEFAULT_WORKLOAD

if TYPE_CHECKING:
    from collections.abc import Callable

Command = TypeVar("Command", bound="Callable[..., Any]")

PLACEMENT_FLAGS = (
    click.option("--ctx", type=int, help="Context length in tokens. Default: the trained one, at most 8192."),
    click.option("--gpu", type=click.Choice(["auto", "off"]), help="Use GPUs: auto or off. Default: auto."),
    click.option(
        "--max-vram", metavar="SIZE", help="Most GPU memory to use, such as 12G. Default: what is free."
    ),
    click.option(
        "--reserve",
        metavar="SIZE",
        help="GPU memory that stays free for other programs. Default: 8 percent, 256M to 1G.",
    ),
    click.option(
        "--max-ram", metavar="SIZE", help="Most host memory to use. Default: what the system can spare."
    ),
    click.option(
        "--kv",
        type=click.Choice(["f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "auto"]),
        help="Type of the KV cache; auto takes q8_0 where f16 does not fit. Default: f16.",
    ),
    click.option(
        "--ubatch", type=int, help="Tokens of a prompt computed together. Default: 0, the plan decides."
    ),
    click.option(
        "--cpu-experts",
        metavar="N|LAYERS",
        help="Layers whose experts stay in host memory: how many, or which (30-47; one layer: 5,). "
        "Default: auto.",
    ),
    click.option("--threads", type=int, help="Compute threads. Default: one per physical core."),
    click.option(
        "--cache-ram",
        metavar="SIZE",
        help="Host memory for conversations that had to leave the KV cache, such as 512M. "
        "Default: a tenth of what is free, at most 2G.",
    ),
)
"""Each sets the setting of its name."""

workload_flag = click.option(
    "--for",
    "workload",
    default=DEFAULT_WORKLOAD,
    metavar="WORKLOAD|PRESET",
    help=f"What to be fast at: chat, prefill, kiosk, or the name of a preset. Default: {DEFAULT_WORKLOAD}.",
)


def placement_flags(command: Command) -> Command:
    """Give `command` all `PLACEMENT_FLAGS`."""
    return with_flags(PLACEMENT_FLAGS, command)


def with_flags(flags: tuple[Callable[[Any], Any], ...], command: Command) -> Command:
    """Give `command` each of `flags`, in their order in its help."""
    for flag in reversed(flags):
        command = flag(command)
    return command

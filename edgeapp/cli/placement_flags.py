"""The flags that say what a placement may use: the same for `run`, `plan` and `tune`."""

from __future__ import annotations

import click

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

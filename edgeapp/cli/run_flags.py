"""The flags of `edgeapp run`: one for each setting, and those that say what the answer must look like."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from edgeapp.cli.placement_flags import PLACEMENT_FLAGS, Command, with_flags

MAX_LOGPROBS = 20  # OpenAI API reference, chat completions: top_logprobs

_SETTINGS = (
    click.option("--system", help="System prompt. Default: none."),
    click.option(
        "--temp",
        type=float,
        help="Temperature; 0 is greedy and deterministic. Default: the model's, or 0.8.",
    ),
    click.option(
        "--top-p",
        type=float,
        help="Sample from the likeliest tokens with this much probability in all. "
        "Default: the model's, or 0.95.",
    ),
    click.option(
        "--top-k",
        type=int,
        help="Sample from this many likeliest tokens; 0 is off. Default: the model's, or 40.",
    ),
    click.option(
        "--min-p",
        type=float,
        help="Drop tokens less likely than this share of the likeliest; 0 is off. "
        "Default: the model's, or 0.05.",
    ),
    click.option(
        "--typical-p",
        type=float,
        help="Keep the tokens of about usual surprise with this much probability in all. Default: 1, off.",
    ),
    click.option(
        "--xtc-probability",
        type=float,
        help="How often XTC removes the likeliest tokens, for variety. Default: 0, off.",
    ),
    click.option(
        "--xtc-threshold", type=float, help="From which probability on XTC removes tokens. Default: 0.1."
    ),
    click.option(
        "--dynatemp-range",
        type=float,
        help="Let the temperature move by this up and down, by how sure the model is. Default: 0, off.",
    ),
    click.option(
        "--mirostat", type=int, help="Version of Mirostat, which replaces most samplers. Default: 0, off."
    ),
    click.option(
        "--repeat-penalty",
        type=float,
        help="Divide the logits of the last 64 tokens by this; 1.1 is usual. Default: 1, off.",
    ),
    click.option(
        "--frequency-penalty",
        type=float,
        help="Lower recent tokens by this for each time they occurred, -2 to 2. Default: 0.",
    ),
    click.option(
        "--presence-penalty",
        type=float,
        help="Lower recent tokens by this, however often they occurred, -2 to 2. Default: 0.",
    ),
    click.option(
        "--dry-multiplier",
        type=float,
        help="Strength of the DRY penalty for repeating whole sequences; 0.8 is usual. Default: 0, off.",
    ),
    click.option("--seed", type=int, help="Seed of the sampler. Default: a fresh one for every answer."),
    click.option(
        "--max-tokens", type=int, help="Longest answer in tokens. Default: 0, until the model ends."
    ),
    click.option(
        "--think",
        type=click.Choice(["auto", "on", "off"]),
        help="Let the model think before it answers, where its template has a switch. "
        "Default: auto, as the template wants it.",
    ),
    click.option(
        "--draft",
        type=click.Choice(["auto", "off"]),
        help="Guess tokens ahead and check them together, which is faster where text repeats. Default: auto.",
    ),
    click.option("--experts", type=int, help="Experts that each token uses. Default: 0, as trained."),
    *PLACEMENT_FLAGS,
    click.option(
        "--cpu-fallback",
        type=click.Choice(["auto", "off"]),
        help="When the GPU is lost: auto goes on on the CPU, off ends with an error. Default: auto.",
    ),
    click.option(
        "--idle-release",
        type=float,
        metavar="SECONDS",
        help="Free the engine's memory after so long without a question; the next one loads it again. "
        "Default: 0, never.",
    ),
    click.option(
        "--history",
        type=click.Choice(["auto", "off"]),
        help="Keep the chat on disk: auto or off. Default: auto.",
    ),
    click.option("--offline/--online", default=None, help="Never touch the network. Default: --online."),
    click.option("--theme", help="Theme of the chat. Default: textual-dark."),
)

_CHOICES = (
    click.option(
        "--json-schema",
        metavar="FILE|JSON",
        help="The answer is JSON that this schema allows: a file, or the schema itself.",
    ),
    click.option(
        "--grammar",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="The answer matches this grammar, in llama.cpp's GBNF.",
    ),
    click.option("--regex", metavar="PATTERN", help="The whole answer matches this regular expression."),
    click.option(
        "--lora",
        multiple=True,
        metavar="FILE[=SCALE]",
        help="Apply this LoRA adapter, a GGUF of the same model; may be given several times. "
        "Default scale: 1.",
    ),
    click.option(
        "--draft-model",
        metavar="MODEL",
        help="A small model with the same vocabulary that guesses ahead. Default: none, guesses come from "
        "the text itself.",
    ),
    click.option(
        "--logprobs",
        type=click.IntRange(0, MAX_LOGPROBS),
        metavar="N",
        help="With --json: add the log probability of each token and of the N likeliest, 0 to 20.",
    ),
)


@dataclass(frozen=True, kw_only=True)
class RunChoices:
    """The flags that are no settings, as they were typed."""

    json_schema: str | None
    grammar: Path | None
    regex: str | None
    lora: tuple[str, ...]
    draft_model: str | None
    logprobs: int | None


def setting_flags(command: Command) -> Command:
    """Give `command` a flag for every setting but `log_level`."""
    return with_flags(_SETTINGS, command)


def choice_flags(command: Command) -> Command:
    """Give `command` the flags of `RunChoices`."""
    return with_flags(_CHOICES, command)


def take_choices(flags: dict[str, Any]) -> RunChoices:
    """Move the choices out of `flags`, which leaves the settings."""
    return RunChoices(**{name: flags.pop(name) for name in RunChoices.__dataclass_fields__})

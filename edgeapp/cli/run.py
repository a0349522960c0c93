"""`edgeapp run`: a chat on a terminal, one streamed answer elsewhere."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from typing import TYPE_CHECKING, TypeVar

import click

from edgeapp import catalog, log
from edgeapp.catalog import CatalogEntry
from edgeapp.config import load_settings
from edgeapp.errors import NoGguf, UsageError
from edgeapp.protocol import Sampling
from edgeapp.references import HubRef, LocalPath

if TYPE_CHECKING:
    from edgeapp.catalog import ResolvedModel, SamplingAdvice
    from edgeapp.config import Settings
    from edgeapp.protocol import Load
    from edgeapp.session import ChatSettings

Number = TypeVar("Number", int, float)

_EXAMPLES = """\b
Examples:
  edgeapp run                                     chat with the embedded demo model
  edgeapp run ./model.gguf                        chat with a file
  edgeapp run hf:org/repo:Q4_K_M                  download first, then chat
  edgeapp run ./checkpoint                        convert a folder of safetensors first, then chat
  edgeapp run -p "Why is the sky blue?"           answer once and end
  cat report.txt | edgeapp run -p "Summarise:"    put standard input before the prompt
  edgeapp run -p "Hi" --json | jq .timings        one JSON object for scripts
"""


@click.command(epilog=_EXAMPLES)
@click.argument("model", required=False)
@click.option("-p", "--prompt", help="Answer this prompt and end, instead of opening a chat.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.option("--system", help="System prompt. Default: none.")
@click.option(
    "--temp", type=float, help="Temperature; 0 is greedy and deterministic. Default: the model's, or 0.8."
)
@click.option(
    "--top-p",
    type=float,
    help="Sample from the likeliest tokens with this much probability in all. Default: the model's, or 0.95.",
)
@click.option(
    "--top-k", type=int, help="Sample from this many likeliest tokens; 0 is off. Default: the model's, or 40."
)
@click.option(
    "--min-p",
    type=float,
    help="Drop tokens less likely than this share of the likeliest; 0 is off. Default: the model's, or 0.05.",
)
@click.option("--seed", type=int, help="Seed of the sampler. Default: a fresh one for every answer.")
@click.option("--max-tokens", type=int, help="Longest answer in tokens. Default: 0, until the model ends.")
@click.option("--ctx", type=int, help="Context length in tokens. Default: the trained one, at most 8192.")
@click.option("--threads", type=int, help="Compute threads. Default: one per physical core.")
@click.option("--gpu", type=click.Choice(["auto", "off"]), help="Use GPUs: auto or off. Default: auto.")
@click.option("--offline/--online", default=None, help="Never touch the network. Default: --online.")
@click.option("--theme", help="Theme of the chat. Default: textual-dark.")
def command(model: str | None, prompt: str | None, *, as_json: bool, **flags: object) -> None:
    """Chat with MODEL, or answer one prompt.

    MODEL is a .gguf file, hf:org/repo[:quant], a name from `edgeapp models list`, or nothing for the
    embedded demo. A folder or repository of safetensors is converted to 4 bits first, once. Without
    -p, on a terminal, a chat opens; otherwise the answer is streamed as plain text.
    """
    settings = load_settings(flags)
    log.set_up(settings.log_level)
    is_chat = prompt is None and not as_json and sys.stdin.isatty() and sys.stdout.isatty()
    if is_chat and os.environ.get("TERM", "dumb") in ("", "dumb"):
        raise UsageError(
            "This terminal cannot show the chat: TERM says that it is dumb.",
            hint='Use `edgeapp run -p "…"`, or set TERM.',
        )
    full_prompt = None if is_chat else _read_prompt(prompt)
    resolved = _resolve(model, settings)
    load = _planned_load(resolved, settings)
    chat_settings = _chat_settings(settings, resolved.sampling)
    if full_prompt is None:
        _chat(resolved, load, chat_settings, theme=settings.theme)
    else:
        _answer(full_prompt, resolved, load, chat_settings, as_json=as_json)


def _read_prompt(prompt: str | None) -> str:
    """Join standard input, where something was piped in, and the prompt. Raise `UsageError` for nothing."""
    piped = _read_stdin() if prompt is None or _stdin_is_piped() else ""
    text = "\n\n".join(part for part in (piped.strip(), _well_formed(prompt or "")) if part)
    if not text:
        raise UsageError("There is no prompt.", hint='Give one with -p "…", or pipe one in.')
    return text


def _well_formed(argument: str) -> str:
    """Replace bytes of an argument that are not UTF-8, which Python hands over as lone surrogates."""
    return argument.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _stdin_is_piped() -> bool:
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def _read_stdin() -> str:
    if sys.stdin.isatty():
        click.echo("Type the prompt, then Ctrl+D.", err=True)
    data = sys.stdin.buffer.read()
    return data.decode("utf-8", "replace")


def _resolve(model: str | None, settings: Settings) -> ResolvedModel:
    """Return the model, after downloading, upcycling or converting it when it is not here yet."""
    from edgeapp.cli import download_progress

    parsed = catalog.parse_reference(catalog.DEMO if model is None else model)
    if found := _converted_here(parsed, offline=settings.offline):
        return found
    try:
        with download_progress.shown() as on_progress:
            return catalog.resolve(model, offline=settings.offline, on_progress=on_progress)
    except NoGguf:
        if not isinstance(parsed, HubRef):
            raise
        from edgeapp.cli.converted import make_from_checkpoint

        return make_from_checkpoint(parsed, offline=settings.offline)


def _converted_here(parsed: LocalPath | HubRef | CatalogEntry, *, offline: bool) -> ResolvedModel | None:
    """Make the model when it is one that has to be made on this machine; None for all others."""
    match parsed:
        case LocalPath(path=path) if path.is_dir():
            from edgeapp.cli.converted import make_from_checkpoint

            return make_from_checkpoint(parsed, offline=offline)
        case CatalogEntry() if parsed.upcycled_from and catalog.find_local(parsed) is None:
            from edgeapp.cli.converted import make_upcycled

            return make_upcycled(parsed, offline=offline)
        case _:
            return None


def _planned_load(resolved: ResolvedModel, settings: Settings) -> Load:
    from edgeapp.gguf_info import read_gguf_info
    from edgeapp.hardware import read_gpus, read_host
    from edgeapp.placement.plan import plan
    from edgeapp.runtime.loading import engine_has_cuda, load_request

    info = read_gguf_info(resolved.path)
    # A card that this build of the engine cannot use is no place for a model.
    gpus = read_gpus().gpus if settings.gpu == "auto" and engine_has_cuda() else ()
    placed = plan(info, read_host(), gpus, ctx=settings.ctx, threads=settings.threads)
    return load_request(placed, info.path)


def _sampling(settings: Settings, advice: SamplingAdvice) -> Sampling:
    """Take each value from the user, else the model's catalog entry, else llama.cpp's default."""
    default = Sampling()
    return Sampling(
        temp=_first(settings.temp, advice.temp, default.temp),
        top_k=_first(settings.top_k, advice.top_k, default.top_k),
        top_p=_first(settings.top_p, advice.top_p, default.top_p),
        min_p=_first(settings.min_p, advice.min_p, default.min_p),
        seed=settings.seed,
    )


def _chat_settings(settings: Settings, advice: SamplingAdvice) -> ChatSettings:
    from edgeapp.session import ChatSettings

    return ChatSettings(
        system=_well_formed(settings.system or ""),
        sampling=_sampling(settings, advice),
        max_tokens=settings.max_tokens,
    )


def _first(chosen: Number | None, advised: Number | None, default: Number) -> Number:
    known = chosen if chosen is not None else advised
    return default if known is None else known


def _chat(resolved: ResolvedModel, load: Load, chat_settings: ChatSettings, *, theme: str) -> None:
    from edgeapp.runtime.worker_client import WorkerClient
    from edgeapp.tui.app import ChatApp

    app = ChatApp(
        WorkerClient(load),
        chat_settings,
        title=resolved.name,
        subtitle=resolved.licence,
        welcome=resolved.description,
        theme=theme,
    )
    app.run()
    if app.load_problem is not None:
        raise app.load_problem
    sys.exit(app.return_code or 0)


def _answer(
    prompt: str, resolved: ResolvedModel, load: Load, chat_settings: ChatSettings, *, as_json: bool
) -> None:
    from edgeapp.cli.answer import Job, answer

    job = Job(
        prompt=prompt,
        load=load,
        settings=chat_settings,
        model=resolved.name,
        as_json=as_json,
    )
    sys.exit(asyncio.run(answer(job)))

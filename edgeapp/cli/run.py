"""`edgeapp run`: a chat on a terminal, one streamed answer elsewhere."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from edgeapp import catalog, log
from edgeapp.catalog import CatalogEntry
from edgeapp.cli.adapters import load_adapters, parse_adapters
from edgeapp.cli.chat_settings import chat_settings, well_formed
from edgeapp.cli.grammar_source import read_grammar
from edgeapp.cli.job import Job
from edgeapp.cli.run_flags import choice_flags, setting_flags, take_choices
from edgeapp.config import load_settings
from edgeapp.errors import HistoryError, NoGguf, UsageError
from edgeapp.references import HubRef, LocalPath

if TYPE_CHECKING:
    from edgeapp.catalog import ResolvedModel
    from edgeapp.cli.run_flags import RunChoices
    from edgeapp.config import Settings
    from edgeapp.history import Opened
    from edgeapp.runtime.planning import EngineChoice

_EXAMPLES = """\b
Examples:
  edgeapp run                                     chat with the embedded demo model
  edgeapp run ./model.gguf                        chat with a file
  edgeapp run hf:org/repo:Q4_K_M                  download first, then chat
  edgeapp run ./checkpoint                        convert a folder of safetensors first, then chat
  edgeapp run -p "Why is the sky blue?"           answer once and end
  cat report.txt | edgeapp run -p "Summarise:"    put standard input before the prompt
  edgeapp run -p "Hi" --json | jq .timings        one JSON object for scripts
  edgeapp run -p "Name a city." --regex "[A-Z][a-z]{2,14}"    an answer of this form
  edgeapp run -p "Who wrote Faust?" --json-schema author.json
  edgeapp run model.gguf --lora style.gguf=0.5    with an adapter at half strength
  edgeapp run moe.gguf --experts 4                each token uses 4 experts
"""


@click.command(epilog=_EXAMPLES)
@click.argument("model", required=False)
@click.option("-p", "--prompt", help="Answer this prompt and end, instead of opening a chat.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@choice_flags
@setting_flags
def command(model: str | None, prompt: str | None, *, as_json: bool, **flags: Any) -> None:
    """Chat with MODEL, or answer one prompt.

    MODEL is a .gguf file, hf:org/repo[:quant], a name from `edgeapp models list`, or nothing for the
    embedded demo. A folder or repository of safetensors is converted to 4 bits first, once. Without
    -p, on a terminal, a chat opens; otherwise the answer is streamed as plain text.

    What a model thinks before it answers is never on stdout: the chat shows it folded, -p shows it dimmed
    on stderr when that is a terminal, and --json has it as `reasoning`.
    """
    choices = take_choices(flags)
    settings = load_settings(flags)
    log.set_up(settings.log_level)
    _check_together(choices, settings, as_json=as_json)
    is_chat = prompt is None and not as_json and sys.stdin.isatty() and sys.stdout.isatty()
    if is_chat and os.environ.get("TERM", "dumb") in ("", "dumb"):
        raise UsageError(
            "This terminal cannot show the chat: TERM says that it is dumb.",
            hint='Use `edgeapp run -p "…"`, or set TERM.',
        )
    grammar, adapters = read_grammar(choices), parse_adapters(choices.lora)
    full_prompt = None if is_chat else _read_prompt(prompt)
    resolved = resolve_model(model, settings)
    job = Job(
        model=resolved.name,
        engine=plan_engine(resolved, settings, draft_model=choices.draft_model),
        settings=chat_settings(
            settings,
            resolved.sampling,
            grammar=grammar,
            adapters=tuple(adapter.use for adapter in adapters),
            logprobs=choices.logprobs,
        ),
        adapters=adapters,
        idle_release_s=settings.idle_release,
        allow_cpu=settings.cpu_fallback == "auto",
    )
    if full_prompt is None:
        _chat(job, resolved, theme=settings.theme, keeps_history=settings.history == "auto")
    else:
        _answer(job, full_prompt, as_json=as_json)


def _check_together(choices: RunChoices, settings: Settings, *, as_json: bool) -> None:
    """Raise `UsageError` for flags that make no sense together."""
    if choices.logprobs is not None and not as_json:
        raise UsageError("--logprobs goes into the JSON object.", hint="Add --json.")
    if choices.draft_model is not None and settings.draft == "off":
        raise UsageError(
            "--draft-model names a model that guesses ahead, but guessing is off.", hint="Add --draft auto."
        )


def _read_prompt(prompt: str | None) -> str:
    """Join standard input, where something was piped in, and the prompt. Raise `UsageError` for nothing."""
    piped = _read_stdin() if prompt is None or _stdin_is_piped() else ""
    text = "\n\n".join(part for part in (piped.strip(), well_formed(prompt or "")) if part)
    if not text:
        raise UsageError("There is no prompt.", hint='Give one with -p "…", or pipe one in.')
    return text


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


def resolve_model(model: str | None, settings: Settings) -> ResolvedModel:
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


def plan_engine(
    resolved: ResolvedModel,
    settings: Settings,
    *,
    draft_model: str | None = None,
    workload: str = "chat",
) -> EngineChoice:
    """Plan where the model goes. Raise `EdgeappError` when it cannot be run."""
    from edgeapp.cli.placement_wishes import wishes_of
    from edgeapp.gguf_info import read_gguf_info
    from edgeapp.runtime.planning import EngineChoice, planned

    draft = None if draft_model is None else read_gguf_info(resolve_model(draft_model, settings).path)
    return EngineChoice(
        planned=asyncio.run(planned(resolved.path, wishes_of(settings, workload=workload))),
        n_expert_used=settings.experts,
        draft_path=draft.path if draft else None,
    )


def _chat(job: Job, resolved: ResolvedModel, *, theme: str, keeps_history: bool) -> None:
    from edgeapp.cli.engine import JobEngine
    from edgeapp.tui.app import ChatApp

    history = _open_history() if keeps_history else None
    engine = JobEngine(job, front_end="chat", history=history.database if history else None)
    placement = f"Placement: {job.engine.planned.plan.reason}."
    notes = (resolved.description, placement, history.notice if history else "")
    app = ChatApp(
        engine.client,
        job.settings,
        title=resolved.name,
        subtitle=resolved.licence,
        welcome="\n".join(filter(None, notes)),
        theme=theme,
        prepare=partial(load_adapters, engine.client, job.adapters),
        onlooker=engine,
        watch_over=engine.watch_over,
    )
    try:
        app.run()
    finally:
        engine.close()
    if app.load_problem is not None:
        raise app.load_problem
    sys.exit(app.return_code or 0)


def _open_history() -> Opened | None:
    """Return the history; None, and why on stderr, when it cannot be opened: a chat needs none."""
    from edgeapp.history import open_history

    try:
        return open_history()
    except HistoryError as problem:
        click.echo(f"note: {problem.message} This chat is not kept.", err=True)
        return None


def _answer(job: Job, prompt: str, *, as_json: bool) -> None:
    from edgeapp.cli.answer import answer

    sys.exit(asyncio.run(answer(job, prompt, as_json=as_json)))

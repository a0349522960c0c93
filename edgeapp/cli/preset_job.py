"""From a preset, a model and flags to a job, and from questions to answers, on one engine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgeapp.cli.adapters import load_adapters, parse_adapters
from edgeapp.cli.chat_settings import chat_settings
from edgeapp.cli.engine import JobEngine
from edgeapp.cli.job import Job
from edgeapp.cli.run import plan_engine, resolve_model
from edgeapp.config import load_settings
from edgeapp.errors import EngineError, UsageError, from_code
from edgeapp.presets import render
from edgeapp.presets.render import grammar_of
from edgeapp.protocol import Delta, Done, Failed
from edgeapp.session import ChatSession
from edgeapp.session.turns import Turn

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from edgeapp.presets import Preset


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked, after what the preset shows the model first."""

    before: tuple[Turn, ...]
    prompt: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A whole answer, or what there was of it."""

    text: str
    done: Done

    @property
    def is_whole(self) -> bool:
        return self.done.finish_reason == "stop"


def preset_job(preset: Preset, model: str | None, flags: Mapping[str, Any]) -> Job:
    """Return what is loaded and asked; flags beat the preset, the preset beats environment and file.

    Raise `EdgeappError`.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    settings = load_settings(preset.settings | given)
    adapters = parse_adapters([preset.adapter] if preset.adapter else [])
    resolved = resolve_model(model, settings)
    chat = chat_settings(
        settings,
        resolved.sampling,
        grammar=grammar_of(preset),
        adapters=tuple(adapter.use for adapter in adapters),
    )
    return Job(
        model=resolved.name,
        engine=plan_engine(resolved, settings, workload=preset.workload),
        settings=replace(chat, system=given.get("system", preset.system), stop=preset.stop),
        adapters=adapters,
        idle_release_s=settings.idle_release,
        allow_cpu=settings.cpu_fallback == "auto",
    )


def question(preset: Preset, values: Mapping[str, str | int | float]) -> Question:
    """Return the question for `values`. Raise `UsageError`."""
    rendered = render(preset, values)
    if rendered.images:
        raise UsageError(
            f"The preset {preset.name} shows the model an image, and edgeapp runs text models only so far.",
            hint="Describe the image in words, for example with inspect-measurements.",
        )
    *before, last = rendered.messages
    turns = (Turn(role=message.role, text=message.content) for message in before if message.role != "system")
    return Question(before=tuple(turns), prompt=last.content)


async def answers(job: Job, questions: Sequence[Question]) -> AsyncGenerator[Answer]:
    """Yield the answer to each question, one engine answering all. Raise `EdgeappError`."""
    engine = JobEngine(job, front_end="preset")
    try:
        await load_adapters(engine.client, job.adapters)
        for asked in questions:
            session = ChatSession(engine.client, job.settings, onlooker=engine)
            session.turns.extend(asked.before)
            yield await _answer(session, asked.prompt)
    finally:
        engine.close()
        await engine.client.aclose()


async def _answer(session: ChatSession, prompt: str) -> Answer:
    parts: list[str] = []
    async for event in session.send(prompt):
        match event:
            case Delta(text=text, channel="reasoning"):
                pass
            case Delta(text=text):
                parts.append(text)
            case Done():
                return Answer(text="".join(parts), done=event)
            case Failed(code=code, message=message, hint=hint):
                raise from_code(code, message, hint)
            case _:
                pass
    raise EngineError("The engine ended without an answer.")

"""Render a conversation with the model's chat template, as a program that must not be trusted.

A template is code that came with a model file (CVE-2024-34359). It runs in jinja2's immutable sandbox,
in the worker, with a limit on time, on memory and on the length of its output. Without a template, or
with one that does not compile, ChatML is used and the caller says so.
Text in a conversation cannot become a control token: see `neutralise`.
"""

from __future__ import annotations

import datetime as dt
import json
import resource
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edgeapp.errors import TemplateError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgeapp.protocol import Message

MAX_TEMPLATE_CHARS = 256 * 1024
MAX_OUTPUT_CHARS = 8 * 1024 * 1024
TIME_LIMIT_S = 2.0
MEMORY_LIMIT_BYTES = 512 * 1024**2

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

MARK = "\ue0ff"
"""A private-use character that splits control strings inside a message; the tokeniser never sees it."""


class ChatTemplate:
    """A compiled template. `origin` says where it came from, `warning` why ChatML had to stand in."""

    def __init__(self, source: str | None, *, bos_text: str, eos_text: str) -> None:
        self.origin: Literal["gguf", "chatml"] = "gguf"
        self.warning = ""
        self._variables = {"bos_token": bos_text, "eos_token": eos_text}
        environment = _environment()
        try:
            with _limits():
                self._template = environment.from_string(_checked(source))
        except (jinja2.TemplateSyntaxError, TemplateError, RecursionError, MemoryError) as problem:
            self.origin = "chatml"
            self.warning = f"ChatML is used instead of the model's chat template: {problem}"
            self._template = environment.from_string(CHATML)

    def render(self, messages: Sequence[Message], *, control_texts: Sequence[str] = ()) -> str:
        """Return the prompt, ready for an answer; `MARK` splits control strings found in messages.

        Raise `TemplateError` when the template refuses the conversation or exceeds a limit.
        """
        turns = [{"role": m.role, "content": neutralise(m.content, control_texts)} for m in messages]
        try:
            with _limits():
                return self._collect({"messages": turns, "add_generation_prompt": True})
        except (
            jinja2.TemplateError,
            TypeError,
            ValueError,
            KeyError,
            RecursionError,
            OverflowError,
        ) as problem:
            raise TemplateError(
                f"The model's chat template refused the conversation: {problem}.",
                hint="The template may not allow a system message: try without --system.",
            ) from problem
        except MemoryError as problem:
            raise TemplateError(
                f"The model's chat template needed more than {MEMORY_LIMIT_BYTES // 1024**2} MiB.",
                hint="The model file is suspicious: get it from its author.",
            ) from problem

    def _collect(self, variables: dict[str, object]) -> str:
        parts: list[str] = []
        n_chars = 0
        for part in self._template.generate(self._variables | variables):
            parts.append(part)
            n_chars += len(part)
            if n_chars > MAX_OUTPUT_CHARS:
                raise TemplateError(
                    f"The model's chat template wrote more than {MAX_OUTPUT_CHARS} characters.",
                    hint="The model file is suspicious: get it from its author.",
                )
        return "".join(parts)


def neutralise(content: str, control_texts: Sequence[str]) -> str:
    """Split every control string in a message with `MARK`, so that it tokenises as plain text."""
    content = content.replace(MARK, "")
    for text in control_texts:
        if text in content:
            content = content.replace(text, text[0] + MARK + text[1:])
    return content


def _checked(source: str | None) -> str:
    if source is None:
        raise TemplateError("The model carries no chat template.")
    if len(source) > MAX_TEMPLATE_CHARS:
        raise TemplateError(
            f"The model's chat template has {len(source)} characters, more than {MAX_TEMPLATE_CHARS}."
        )
    return source


def _environment() -> ImmutableSandboxedEnvironment:
    """Create the environment that Hugging Face's templates expect (transformers, chat_template_utils.py)."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols], autoescape=False
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _tojson(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return dt.datetime.now().astimezone().strftime(pattern)


@contextmanager
def _limits() -> Iterator[None]:
    """Bound time (SIGALRM, so main thread only) and address space for the block."""

    def on_alarm(_signal: int, _frame: object) -> NoReturn:
        raise TemplateError(
            f"The model's chat template ran longer than {TIME_LIMIT_S:g} s.",
            hint="The model file is suspicious: get it from its author.",
        )

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    previous = signal.signal(signal.SIGALRM, on_alarm)
    resource.setrlimit(resource.RLIMIT_AS, (_address_space_bytes() + MEMORY_LIMIT_BYTES, hard))
    signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, previous)


def _address_space_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123 - a hot path of one read
        return int(statm.read().split()[0]) * resource.getpagesize()

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
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edgeapp.errors import ContextOverflow, TemplateError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jinja2.parser import Parser
    from jinja2.runtime import Context

    from edgeapp.protocol import Message

MAX_TEMPLATE_CHARS = 256 * 1024
MAX_OUTPUT_CHARS = 8 * 1024 * 1024
TIME_LIMIT_S = 2.0
MEMORY_LIMIT_BYTES = 512 * 1024**2
MAX_POWER_BITS = 4096

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

MARK = "\ue0ff"
"""A private-use character that splits control strings inside a message; the tokeniser never sees it."""


class _TimeUp(BaseException):
    """No `Exception`: jinja2 swallows those while it folds constants."""


class _GenerationBlock(Extension):
    """`{% generation %}` marks the assistant's part for training; here it only lets its body through."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it as an instance attribute

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        # Python computes a huge power in C, where no alarm can interrupt it.
        if isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > MAX_POWER_BITS:
            raise TemplateError("The model's chat template computes a power that is too large.")
        return super().call_binop(context, operator, left, right)


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
            reason = str(problem) or type(problem).__name__
            self.warning = f"ChatML is used instead of the model's chat template: {reason}"
            self._template = environment.from_string(CHATML)

    def render(
        self,
        messages: Sequence[Message],
        *,
        control_texts: Sequence[str] = (),
        user_defined_texts: Sequence[str] = (),
    ) -> str:
        """Return the prompt, ready for an answer; `MARK` splits special strings found in messages.

        User-defined strings (`<think>` in many models) are left alone in the model's own answers, where
        templates look for them to drop old thoughts.
        Raise `TemplateError` when the template refuses the conversation or exceeds a limit, `ContextOverflow`
        for millions of characters.
        """
        n_chars = sum(len(m.content) for m in messages)
        if n_chars > MAX_OUTPUT_CHARS // 2:
            raise ContextOverflow(
                f"The conversation has {n_chars} characters, more than any context holds.",
                hint="Send less text.",
            )
        special = (*control_texts, *user_defined_texts)
        turns = [
            {
                "role": m.role,
                "content": neutralise(m.content, control_texts if m.role == "assistant" else special),
            }
            for m in messages
        ]
        try:
            with _limits():
                return self._collect({"messages": turns, "add_generation_prompt": True})
        except TemplateError:
            raise
        except MemoryError as problem:
            raise TemplateError(
                f"The model's chat template needed more than {MEMORY_LIMIT_BYTES // 1024**2} MiB.",
                hint="The model file is suspicious: get it from its author.",
            ) from problem
        except Exception as problem:  # a template can raise anything
            raise TemplateError(
                f"The model's chat template refused the conversation: {str(problem).rstrip('.')}.",
                hint="It may not allow a system message: try without --system."
                if messages[:1] and messages[0].role == "system"
                else "Start a new chat.",
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
        return "".join(parts).encode("utf-8", "replace").decode()  # a template can write lone surrogates


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
    environment = _Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[loopcontrols, _GenerationBlock],
        autoescape=False,
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _tojson(
    value: object,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 - the signature that templates call
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return dt.datetime.now().astimezone().strftime(pattern)


@contextmanager
def _limits() -> Iterator[None]:
    """Bound time (SIGALRM, so main thread only) and address space for the block."""

    def on_alarm(_signal: int, _frame: object) -> NoReturn:
        raise _TimeUp

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = _address_space_bytes() + MEMORY_LIMIT_BYTES
    bounds = [limit for limit in (wanted, soft, hard) if limit != resource.RLIM_INFINITY]
    previous = signal.signal(signal.SIGALRM, on_alarm)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (min(bounds), hard))
        signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT_S, TIME_LIMIT_S / 10)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except _TimeUp:
        raise TemplateError(
            f"The model's chat template ran longer than {TIME_LIMIT_S:g} s.",
            hint="The model file is suspicious: get it from its author.",
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, previous)


def _address_space_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123 - a hot path of one read
        return int(statm.read().split()[0]) * resource.getpagesize()

"""Run a chat template as a program that must not be trusted.

A template is code that came with a model file (CVE-2024-34359). It runs in jinja2's immutable sandbox,
with a limit on time, on memory and on the length of its output. Knows no message and no model.
"""

from __future__ import annotations

import datetime as dt
import json
import resource
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edgeapp.engine.neutral import MARK
from edgeapp.errors import TemplateError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from jinja2.parser import Parser
    from jinja2.runtime import Context

MAX_TEMPLATE_CHARS = 256 * 1024
MAX_OUTPUT_CHARS = 8 * 1024 * 1024
TIME_LIMIT_S = 2.0
MEMORY_LIMIT_BYTES = 512 * 1024**2
MAX_POWER_BITS = 4096

_SUSPICIOUS = "The model file is suspicious: get it from its author."


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

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        # Some templates keep a queue (Kimi K2). The lists they are given are made for one rendering.
        is_queue = isinstance(obj, list) and attr in {"append", "pop"}
        return is_queue or super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        # Python computes a huge power in C, where no alarm can interrupt it.
        if isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > MAX_POWER_BITS:
            raise TemplateError("The model's chat template computes a power that is too large.")
        return super().call_binop(context, operator, left, right)


class Program:
    """A compiled template. Raise `TemplateError` for one that does not compile within the limits."""

    def __init__(self, source: str) -> None:
        if len(source) > MAX_TEMPLATE_CHARS:
            raise TemplateError(
                f"The model's chat template has {len(source)} characters, more than {MAX_TEMPLATE_CHARS}."
            )
        try:
            with _limits():
                self._template = _environment().from_string(source)
        except (jinja2.TemplateSyntaxError, RecursionError, MemoryError) as problem:
            raise TemplateError(str(problem) or type(problem).__name__) from problem

    def run(self, variables: Mapping[str, object]) -> str:
        """Return what the template writes.

        Raise `TemplateError` where it exceeds a limit; whatever else it raises says why it refuses.
        """
        try:
            with _limits():
                return self._collect(variables)
        except MemoryError as problem:
            raise TemplateError(
                f"The model's chat template needed more than {MEMORY_LIMIT_BYTES // 1024**2} MiB.",
                hint=_SUSPICIOUS,
            ) from problem

    def _collect(self, variables: Mapping[str, object]) -> str:
        parts: list[str] = []
        n_chars = 0
        for part in self._template.generate(variables):
            parts.append(part)
            n_chars += len(part)
            if n_chars > MAX_OUTPUT_CHARS:
                raise TemplateError(
                    f"The model's chat template wrote more than {MAX_OUTPUT_CHARS} characters.",
                    hint=_SUSPICIOUS,
                )
        return "".join(parts).encode("utf-8", "replace").decode()  # a template can write lone surrogates


def _environment() -> ImmutableSandboxedEnvironment:
    """Create the environment that Hugging Face's templates expect (transformers, chat_template_utils.py)."""
    environment = _Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[loopcontrols, _GenerationBlock],
        autoescape=False,
    )
    environment.filters["tojson"] = _tojson
    environment.filters["from_json"] = json.loads
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
    text = json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
        default=list,  # filters such as `map` return an iterator
    )
    return text.replace(f"\\u{ord(MARK):04x}", MARK) if ensure_ascii else text


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
            f"The model's chat template ran longer than {TIME_LIMIT_S:g} s.", hint=_SUSPICIOUS
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, previous)


def _address_space_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123 - a hot path of one read
        return int(statm.read().split()[0]) * resource.getpagesize()

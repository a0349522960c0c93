"""From a preset and the values of its variables to messages and a grammar. Pure: reads no file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeapp.cleantext import clean_line
from edgeapp.errors import UsageError
from edgeapp.presets.template import fill
from edgeapp.protocol import Grammar, Message

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeapp.presets.format import Example, Preset, Scalar, Variable


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """What is asked of a model."""

    messages: tuple[Message, ...]
    """System message if there is one, the examples in turn, and the user's message last."""
    grammar: Grammar | None
    images: tuple[str, ...] = ()
    """Paths of the images that the model must see."""


def render(preset: Preset, values: Mapping[str, Scalar]) -> Rendered:
    """Return the request for `values`, a file's value being its text. Raise `UsageError`."""
    system = [Message(role="system", content=preset.system)] if preset.system else []
    texts = _texts(preset, values)
    shown = [message for example in preset.examples for message in _example(preset, example)]
    question = Message(role="user", content=fill(preset.template, texts))
    images = tuple(texts[v.name] for v in preset.variables if v.type == "image" and texts[v.name])
    return Rendered(messages=(*system, *shown, question), grammar=grammar_of(preset), images=images)


def grammar_of(preset: Preset) -> Grammar | None:
    """Return what every answer must match, if anything."""
    if preset.schema:
        return Grammar(kind="json_schema", source=preset.schema)
    if preset.grammar:
        return Grammar(kind="gbnf", source=preset.grammar)
    return Grammar(kind="regex", source=preset.regex) if preset.regex else None


def _example(preset: Preset, example: Example) -> tuple[Message, Message]:
    question = example.input
    if not isinstance(question, str):
        question = fill(preset.template, _texts(preset, question))
    return Message(role="user", content=question), Message(role="assistant", content=example.output)


def _texts(preset: Preset, values: Mapping[str, Scalar]) -> dict[str, str]:
    known = [variable.name for variable in preset.variables]
    if unknown := sorted(set(values) - set(known)):
        raise UsageError(
            f"The preset {preset.name} has no variable {clean_line(unknown[0], max_chars=40)!r}.",
            hint=f"It has {', '.join(known)}." if known else "It has none.",
        )
    return {variable.name: _text(preset, variable, values) for variable in preset.variables}


def _text(preset: Preset, variable: Variable, values: Mapping[str, Scalar]) -> str:
    value = values.get(variable.name, variable.default)
    if value is None or value == "":
        if variable.required:
            raise UsageError(
                f"The preset {preset.name} needs a value for {variable.name!r}.",
                hint=f"Give --var {variable.name}=…" + _what(variable),
            )
        return ""
    if variable.type == "choice" and str(value) not in variable.choices:
        raise UsageError(
            f"{variable.name} is {clean_line(str(value), max_chars=40)!r}, which is none of its choices.",
            hint=f"It is one of {', '.join(variable.choices)}.",
        )
    if variable.type == "number" and not _is_number(value):
        raise UsageError(f"{variable.name} is {clean_line(str(value), max_chars=40)!r}, which is no number.")
    return str(value)


def _what(variable: Variable) -> str:
    return f" ({variable.description})" if variable.description else ""


def _is_number(value: Scalar) -> bool:
    try:
        return math.isfinite(float(value))
    except (ValueError, OverflowError):
        return False

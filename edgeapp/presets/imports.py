"""Make presets of what people have: an Ollama Modelfile, or a folder with a Fabric pattern. Pure."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from edgeapp.cleantext import clean, clean_line
from edgeapp.errors import ConfigError
from edgeapp.presets.format import Example, Preset, Variable, check_preset
from edgeapp.presets.template import names_in

if TYPE_CHECKING:
    from collections.abc import Iterator

_SETTINGS = {
    "temperature": "temp",
    "num_predict": "max_tokens",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "repeat_penalty": "repeat_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "seed": "seed",
    "mirostat": "mirostat",
}
"""Ollama's parameters (docs/modelfile.md there) and our settings."""
_WHOLE = frozenset({"max_tokens", "top_k", "seed", "mirostat"})
_TRIVIAL = frozenset({"{{.Prompt}}", "{{.System}}{{.Prompt}}"})
_QUOTES = '"""'


def from_modelfile(text: str, *, name: str) -> tuple[Preset, tuple[str, ...]]:
    """Return the preset that a Modelfile describes, and a sentence for all that was left out.

    Raise `ConfigError` for a TEMPLATE of its own, or for what is no Modelfile.
    """
    notes: list[str] = []
    system: list[str] = []
    sampling: dict[str, object] = {}
    stop: list[str] = []
    turns: list[tuple[str, str]] = []
    ctx = 0
    for instruction, value in _instructions(text):
        match instruction:
            case "SYSTEM":
                system.append(value)
            case "PARAMETER":
                key, _, number = value.partition(" ")
                if key == "num_ctx":
                    ctx = int(_number(key, number))
                elif key == "stop":
                    stop.append(number.strip().strip('"'))
                elif note := _set(sampling, key, number.strip()):
                    notes.append(note)
            case "MESSAGE":
                role, _, content = value.partition(" ")
                turns.append((role.lower(), _unquoted(content.strip())))
            case "TEMPLATE":
                _check_template(value)
            case _:
                shown = clean_line(value, max_chars=60)
                notes.append(f"{instruction} {shown} was left out: a preset works with any model.")
    system += [content for role, content in turns if role == "system"]
    preset = Preset(
        name=name,
        description="Imported from a Modelfile.",
        system="\n\n".join(system),
        sampling=sampling,
        stop=tuple(stop),
        ctx=ctx,
        examples=_examples([turn for turn in turns if turn[0] != "system"]),
    )
    return check_preset(preset, where="Modelfile"), tuple(notes)


def from_fabric(system: str, user: str, *, name: str) -> Preset:
    """Return the preset of a Fabric pattern's `system.md` and `user.md`. Raise `ConfigError`.

    A pattern with variables of its own becomes part of the template, because they are filled in there.
    """
    template = "\n\n".join(filter(None, (user.strip(), "{{ text }}")))
    names = names_in(system.replace("{{input}}", ""), where="system.md")
    if names or "{{input}}" in system:
        ending = "" if "{{input}}" in system else f"\n\n{template}"
        template, system = system.replace("{{input}}", "{{ text }}") + ending, ""
    used = sorted(names_in(template, where="user.md"), key=lambda known: (known != "text", known))
    preset = Preset(
        name=name,
        description=_first_sentence(system or template),
        system=system.strip(),
        template=template,
        variables=tuple(Variable(name=known) for known in used),
    )
    return check_preset(preset, where="Fabric pattern")


def preset_name(text: str) -> str:
    """Return a preset's name that is like `text`, such as the name of a file."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].rstrip("-")
    return name if name[:1].isalpha() else f"preset-{name}"[:40].rstrip("-")


def _first_sentence(text: str) -> str:
    lines = (line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#"))
    return clean_line(next(lines, "")) or "Imported from a Fabric pattern."


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    """Yield instruction and value; a value in triple quotes may have several lines."""
    lines = iter(clean(text).splitlines())
    for line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        instruction, _, value = line.strip().partition(" ")
        if not instruction.isalpha():
            raise ConfigError(
                f"{clean_line(line, max_chars=60)!r} is no instruction of a Modelfile.",
                hint='A text of several lines stands between """.',
            )
        while value.count(_QUOTES) == 1:
            more = next(lines, None)
            if more is None:
                raise ConfigError(f'{instruction}: the closing """ is missing.')
            value += "\n" + more
        yield instruction.upper(), _unquoted(value.strip())


def _unquoted(value: str) -> str:
    for quotes in (_QUOTES, '"'):
        if len(value) >= 2 * len(quotes) and value.startswith(quotes) and value.endswith(quotes):
            return value[len(quotes) : -len(quotes)].strip("\n")
    if (begin := value.find(_QUOTES)) > 0:  # MESSAGE user triple-quoted text
        return value[:begin] + value[begin:].replace(_QUOTES, "")
    return value


def _check_template(value: str) -> None:
    if re.sub(r"\s+", "", value) not in _TRIVIAL:
        raise ConfigError(
            "The TEMPLATE of the Modelfile cannot be imported: a model's own chat template is used.",
            hint="Remove TEMPLATE; put instructions for the model into SYSTEM.",
        )


def _set(sampling: dict[str, object], key: str, text: str) -> str:
    """Take over a parameter, or return why not."""
    shown = f"PARAMETER {clean_line(key, max_chars=40)} {clean_line(text, max_chars=40)}"
    if key not in _SETTINGS:
        return f"{shown} was left out: there is no setting like it."
    ours, number = _SETTINGS[key], _number(key, text)
    if number < 0 and ours in _WHOLE:
        return f"{shown} was left out: it is the default."
    sampling[ours] = int(number) if ours in _WHOLE else number
    return ""


def _number(key: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(
            f"PARAMETER {clean_line(key, max_chars=40)}: {clean_line(text, max_chars=40)!r} is no number."
        )
    return number


def _examples(turns: list[tuple[str, str]]) -> tuple[Example, ...]:
    if [role for role, _ in turns] != ["user", "assistant"] * (len(turns) // 2):
        raise ConfigError(
            "MESSAGE user and MESSAGE assistant must take turns.", hint="Give every question its answer."
        )
    pairs = zip(turns[::2], turns[1::2], strict=True)
    return tuple(Example(input=question, output=answer) for (_, question), (_, answer) in pairs)

"""The chat templates of a checkpoint, verbatim, as GGUF keys. Renders nothing."""

from __future__ import annotations

from string import ascii_letters, digits
from typing import TYPE_CHECKING

from edgeapp.errors import InvalidCheckpoint
from edgeapp_converters.events import Warned
from edgeapp_converters.metadata import Metadata, string, strings
from edgeapp_converters.raw_json import mappings

if TYPE_CHECKING:
    from edgeapp_converters.events import Report
    from edgeapp_converters.tokenizer_files import TokenizerFiles

MAX_TEMPLATE_BYTES = 1 << 20
"""The longest known ones have about 20 KiB."""
_DEFAULT = "default"
_KEY = "tokenizer.chat_template"
_NAME_CHARS = frozenset(ascii_letters + digits)


def read_chat_templates(files: TokenizerFiles, report: Report) -> Metadata:
    """Return the keys of the default template and of named ones.

    Newer tools write chat_template.jinja and leave tokenizer_config.json alone, so the former wins where
    they differ, with a `Warned` event. Raise `InvalidCheckpoint` for a template that is no UTF-8 text or
    longer than `MAX_TEMPLATE_BYTES`.
    """
    templates = _configured(files) | _written(files)
    if _configured(files).get(_DEFAULT, templates.get(_DEFAULT)) != templates.get(_DEFAULT):
        report(
            Warned(
                message="chat_template.jinja differs from the chat template in tokenizer_config.json; "
                "chat_template.jinja is used.",
                hint="Delete the one that is out of date if this is not what you want.",
            )
        )
    return _keys({name: text for name, text in templates.items() if name})


def _keys(templates: dict[str, str]) -> Metadata:
    named = {name: text for name, text in sorted(templates.items()) if name != _DEFAULT}
    keys: Metadata = {f"{_KEY}.{name}": string(text) for name, text in named.items()}
    if named:
        keys["tokenizer.chat_templates"] = strings(list(named))
    if _DEFAULT in templates:
        keys[_KEY] = string(templates[_DEFAULT])
    return keys


def _configured(files: TokenizerFiles) -> dict[str, str]:
    """Templates inside JSON files: one text, or a list of named ones."""
    value = files.settings.get("chat_template")
    if value is None:
        value = files.json_object("chat_template.json").get("chat_template")
    if isinstance(value, str):
        return {_DEFAULT: _bounded(value, "tokenizer_config.json")}
    return {
        _key_name(str(entry.get("name", ""))): _bounded(entry["template"], "tokenizer_config.json")
        for entry in mappings(value)
        if isinstance(entry.get("template"), str)
    }


def _written(files: TokenizerFiles) -> dict[str, str]:
    """Templates in files of their own."""
    found: dict[str, str] = {}
    if files.has("chat_template.jinja"):
        found[_DEFAULT] = _file(files, "chat_template.jinja")
    for name in files.names_in("additional_chat_templates", suffix=".jinja"):
        stem = name.rpartition("/")[2].removesuffix(".jinja")
        found[_key_name(stem)] = _file(files, name)
    return found


def _file(files: TokenizerFiles, name: str) -> str:
    try:
        text = files.content(name).decode("utf-8")
    except UnicodeDecodeError as problem:
        raise InvalidCheckpoint(
            f"{name} is not UTF-8 text: byte {problem.start} is wrong.",
            hint="Get the file again from the original repository.",
        ) from problem
    return _bounded(text.replace("\r\n", "\n").replace("\r", "\n"), name)


def _key_name(name: str) -> str:
    """Characters other than letters and digits become underscores (gguf_writer.py, add_chat_template)."""
    return "".join(c if c in _NAME_CHARS else "_" for c in name)


def _bounded(template: str, shown: str) -> str:
    try:
        n_bytes = len(template.encode("utf-8"))
    except UnicodeEncodeError as problem:
        raise InvalidCheckpoint(f"The chat template in {shown} holds half a character.") from problem
    if n_bytes > MAX_TEMPLATE_BYTES:
        raise InvalidCheckpoint(
            f"The chat template in {shown} has {n_bytes} bytes; at most {MAX_TEMPLATE_BYTES} are accepted.",
            hint="Get the file again from the original repository.",
        )
    return template

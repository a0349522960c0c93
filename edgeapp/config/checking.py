"""Check the name and the value of one setting, with the place it came from in every error."""

from __future__ import annotations

import difflib
from typing import Any, get_type_hints

import msgspec
from msgspec import Meta

from edgeapp.cleantext import clean_line
from edgeapp.config.settings import KEYS, MIN_CTX, Settings
from edgeapp.errors import ConfigError

_NEAR = 0.5
_TYPES: dict[str, Any] = get_type_hints(Settings, include_extras=True)


def check_key(key: str, *, where: str) -> None:
    """Raise `ConfigError` with the nearest names unless `key` is a setting."""
    if key in KEYS:
        return
    near = _nearest(key.lower().replace("-", "_"))
    raise ConfigError(
        f"{where}: there is no setting {clean_line(key, max_chars=60)!r}.",
        hint=f"Did you mean {near}?" if near else f"The settings are {', '.join(KEYS)}.",
    )


def _nearest(word: str) -> str:
    """Return the setting that `word` begins with or looks like; an empty text for none."""
    begun = [key for key in KEYS if word.startswith(key)]
    return next(iter(begun or difflib.get_close_matches(word, KEYS, n=1, cutoff=_NEAR)), "")


def parse(key: str, text: str, *, where: str) -> object:
    """Return `text` as a valid value of setting `key`. Raise `ConfigError`."""
    check_key(key, where=where)
    return check(key, text, where=where, strict=False)


def check(key: str, value: object, *, where: str, strict: bool) -> object:
    """Return `value` as one of setting `key`; unless `strict`, text may stand for numbers and truth values.

    Raise `ConfigError`.
    """
    kind = _TYPES[key]
    try:
        # msgspec reads the text "null" as None, which no setting's text form means.
        checked: object = (
            None if value == "null" and not strict else msgspec.convert(value, kind, strict=strict)
        )
    except msgspec.ValidationError:
        checked = None
    too_small = key == "ctx" and isinstance(checked, int) and 0 < checked < MIN_CTX
    if checked is None or too_small:
        shown = clean_line(str(value), max_chars=60)
        raise ConfigError(f"{where}: {key} must be {rule(key)}, not {shown!r}.")
    return checked


def rule(key: str) -> str:
    """Return in words what setting `key` can be."""
    kind = _TYPES[key]
    for candidate in (kind, *getattr(kind, "__args__", ())):
        for extra in getattr(candidate, "__metadata__", ()):
            if isinstance(extra, Meta) and extra.description:
                return extra.description
    raise AssertionError(key)  # every field has a description; the tests walk them all

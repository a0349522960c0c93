"""Typed, bounded access to a config.json. Knows no family.

A missing or absurd value is an error that names the key, never a KeyError or a silent default.
"""

from __future__ import annotations

import math
from typing import Any

from edgeapp.cleantext import clean_line
from edgeapp.errors import InvalidCheckpoint

_LARGEST = {
    "num_hidden_layers": 1024,
    "num_experts": 4096,
    "num_local_experts": 4096,
    "n_routed_experts": 4096,
    "moe_num_experts": 4096,
    "vocab_size": 1 << 22,
}
"""Above these a number is damage or an attempt to exhaust memory, not a model."""
_LARGEST_OTHER = 1 << 31


class Config:
    """The values of one config.json. Every accessor raises `InvalidCheckpoint` for another type."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    @property
    def architecture(self) -> str:
        """The class that transformers would load; empty when the file does not say."""
        names = self._values.get("architectures")
        return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""

    def text(self) -> Config:
        """The settings of the language model in a configuration of several modalities."""
        inner = self.mapping("text_config")
        return Config({**self._values, **inner}) if inner else self

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.optional_integer(key)
        if value is not None:
            return value
        if default is None:
            raise _missing(key)
        return default

    def optional_integer(self, key: str) -> int | None:
        value = self._values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise _not(key, value, "an integer")
        if not 0 <= value <= _LARGEST.get(key, _LARGEST_OTHER):
            raise InvalidCheckpoint(
                f"config.json gives {key} as {value}, which no model has.", hint="The file is damaged."
            )
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.optional_number(key)
        if value is not None:
            return value
        if default is None:
            raise _missing(key)
        return default

    def optional_number(self, key: str) -> float | None:
        """A finite number; a flag counts as 0 or 1, so that it can be compared."""
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise _not(key, value, "a finite number")
        return value

    def optional_flag(self, key: str) -> bool | None:
        value = self._values.get(key)
        if value is not None and not isinstance(value, bool):
            raise _not(key, value, "true or false")
        return value

    def optional_text(self, key: str) -> str | None:
        value = self._values.get(key)
        if value is not None and not isinstance(value, str):
            raise _not(key, value, "a text")
        return value

    def texts(self, key: str) -> list[str]:
        """A list of texts; empty when it is absent."""
        value = self._values.get(key) or []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise _not(key, value, "a list of texts")
        return value

    def mapping(self, key: str) -> dict[str, Any]:
        """An object; empty when it is absent."""
        value = self._values.get(key) or {}
        if not isinstance(value, dict):
            raise _not(key, value, "an object")
        return value

    def mapping_or_list(self, key: str) -> dict[str, Any] | list[Any]:
        value = self._values.get(key) or []
        if not isinstance(value, (dict, list)):
            raise _not(key, value, "a list or an object")
        return value


def _missing(key: str) -> InvalidCheckpoint:
    return InvalidCheckpoint(
        f"config.json does not say {key}, which this architecture needs.",
        hint="Take config.json from the original repository.",
    )


def _not(key: str, value: object, what: str) -> InvalidCheckpoint:
    shown = clean_line(repr(value), max_chars=60)
    return InvalidCheckpoint(f"config.json gives {key} as {shown}, which is not {what}.")

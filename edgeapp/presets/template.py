r"""Put values into `{{ name }}`. Nothing is executed: no condition, no loop, no filter; `\{{` is `{{` itself.

A paragraph with variables that are all empty is left out, so that an optional part needs no condition.
Values are not searched for `{{` again.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from edgeapp.cleantext import clean_line
from edgeapp.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

_PLACE = re.compile(r"\\\{\{|\{\{([^{}\n]{0,80})\}\}|\{\{")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


def names_in(template: str, *, where: str) -> set[str]:
    """Return the variables that `template` uses. Raise `ConfigError` for `{{` without a name."""
    names: set[str] = set()
    for found in _PLACE.finditer(template):
        if found[0].startswith("\\"):
            continue
        name = (found[1] or "").strip()
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"{where}: {clean_line(found[0], max_chars=60)!r} is no variable.",
                hint=r"A variable is {{ name }}; write \{{ for two braces.",
            )
        names.add(name)
    return names


def fill(template: str, values: Mapping[str, str]) -> str:
    """Return `template` with its variables replaced; every one must be in `values`."""
    paragraphs = re.split(r"\n[ \t]*\n", template.strip("\n"))
    return "\n\n".join(_filled(text, values) for text in paragraphs if _has_content(text, values))


def _has_content(paragraph: str, values: Mapping[str, str]) -> bool:
    names = names_in(paragraph, where="template")
    return not names or any(values[name] for name in names)


def _filled(paragraph: str, values: Mapping[str, str]) -> str:
    return _PLACE.sub(lambda found: "{{" if found[1] is None else values[found[1].strip()], paragraph)

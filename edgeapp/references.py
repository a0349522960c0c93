"""What a user may type for a model: a path, a hub repository or a catalog name. Pure: told what exists.

Nothing that looks like a URL, climbs out of a folder or carries control characters becomes a repository.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeapp.cleantext import clean, clean_line
from edgeapp.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

_MAX_CHARS = 4096  # PATH_MAX of Linux
_MAX_REPO_CHARS = 96  # huggingface_hub/utils/_validators.py, validate_repo_id
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_HUB = re.compile(rf"({_PART}/{_PART})(?::({_PART}))?")
_CATALOG_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
_HINT = "Give a path to a .gguf file, hf:org/repo[:quant], or a name from `edgeapp models list`."


@dataclass(frozen=True, kw_only=True)
class LocalPath:
    """A file (or the first part of a split file) that the user has."""

    path: Path


@dataclass(frozen=True, kw_only=True)
class HubRef:
    """A repository on the hub; `quant` picks a file by its type, `file` by its path in the repository."""

    repo: str
    quant: str | None = None
    file: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.repo}:{self.quant}" if self.quant else self.repo


@dataclass(frozen=True, kw_only=True)
class CatalogName:
    """A name that looks like one of the catalog's; whether it is there is for the catalog to say."""

    name: str


Reference = LocalPath | HubRef | CatalogName


def parse(text: str, *, exists: Callable[[Path], bool], catalog: Collection[str]) -> Reference:
    """Return what `text` refers to. Raise `UsageError` for what can be none of the three.

    A catalog name wins over everything (write `./name` for such a file), an existing path over a
    repository of the same spelling.
    """
    _refuse_nonsense(text)
    if text in catalog:
        return CatalogName(name=text)
    if text.startswith("hf:"):
        return parse_hub(text)
    path = Path(text).expanduser() if text.startswith("~/") else Path(text)
    if _is_path_like(text) or exists(path):
        return LocalPath(path=path)
    if "/" in text or ":" in text:
        return parse_hub(text)
    if _CATALOG_NAME.fullmatch(text.lower()):
        return CatalogName(name=text)
    raise UsageError(f"{clean_line(text, max_chars=80)!r} is not a model reference.", hint=_HINT)


def parse_hub(text: str) -> HubRef:
    """Return the repository named by `org/repo[:quant]`, with or without `hf:`. Raise `UsageError`."""
    found = _HUB.fullmatch(text.removeprefix("hf:"))
    if found is None or len(found[1]) > _MAX_REPO_CHARS or "--" in found[1] or ".." in text:
        raise UsageError(
            f"{clean_line(text, max_chars=80)!r} is neither an existing file nor a repository name.",
            hint=_HINT,
        )
    return HubRef(repo=found[1], quant=found[2])


def _refuse_nonsense(text: str) -> None:
    if not text.strip():
        raise UsageError("The model reference is empty.", hint=_HINT)
    if len(text) > _MAX_CHARS:
        raise UsageError(
            f"The model reference has {len(text)} characters; at most {_MAX_CHARS} are possible."
        )
    if clean(text) != text or "\n" in text or "\t" in text:
        raise UsageError("The model reference contains control or invisible characters.", hint=_HINT)
    if "://" in text or text.lower().startswith("file:"):
        raise UsageError(
            f"{clean_line(text, max_chars=80)!r} is a URL, which is not a model reference.",
            hint="For https://huggingface.co/org/repo write hf:org/repo.",
        )


def _is_path_like(text: str) -> bool:
    return text.startswith(("/", "./", "../", "~/")) or text.lower().endswith(".gguf")

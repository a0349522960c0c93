"""The LoRA adapters of `edgeapp run`: from `--lora FILE[=SCALE]` to an engine that has them loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeapp.cleantext import clean_line
from edgeapp.errors import ModelNotFound, UsageError
from edgeapp.protocol import AdapterUse

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from edgeapp.runtime.worker_client import WorkerClient

_MAX_NAME_CHARS = 80


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A file, and the name and scale under which answers use it."""

    path: Path
    use: AdapterUse


def parse_adapters(given: Sequence[str]) -> tuple[Adapter, ...]:
    """Return the adapters in order, each named after its file. Raise `UsageError` or `ModelNotFound`."""
    adapters: list[Adapter] = []
    for text in given:
        path, scale = _split(text)
        if any(path.samefile(other.path) for other in adapters):
            raise UsageError(f"--lora: {_shown(path)} is given twice.", hint="Give it once, with one scale.")
        name = _new_name(path.stem, {adapter.use.name for adapter in adapters})
        adapters.append(Adapter(path=path, use=AdapterUse(name=name, scale=scale)))
    return tuple(adapters)


async def load_adapters(client: WorkerClient, adapters: Sequence[Adapter]) -> None:
    """Load the model, then `adapters` beside it. Raise `EdgeappError`."""
    from edgeapp.runtime.asking import load_adapter

    for adapter in adapters:
        await load_adapter(client, adapter.use.name, adapter.path)


def _split(text: str) -> tuple[Path, float]:
    """A name of an existing file may itself have an equals sign in it."""
    before, sign, scale = text.rpartition("=")
    if not sign or Path(text).is_file():
        return _existing(Path(text)), 1.0
    path = _existing(Path(before))
    try:
        number = float(scale)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(
            f"--lora: {clean_line(scale, max_chars=40)!r} is no scale.",
            hint=f"Write a number: --lora {_shown(path)}=0.5",
        )
    return path, number


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ModelNotFound(
            f"--lora: there is no file {_shown(path)}.",
            hint="An adapter is a GGUF file, made for this model.",
        )
    return path


def _new_name(stem: str, taken: Container[str]) -> str:
    name = first = clean_line(stem, max_chars=_MAX_NAME_CHARS) or "adapter"
    n = 1
    while name in taken:
        n += 1
        name = f"{first}-{n}"
    return name


def _shown(path: Path) -> str:
    return clean_line(str(path), max_chars=200)

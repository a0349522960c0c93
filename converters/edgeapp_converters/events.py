"""What a conversion tells whoever watches it. Knows no terminal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Stage = Literal[
    "reading", "downloading", "upcycling", "measuring", "calibrating", "converting", "checking", "comparing"
]


@dataclass(frozen=True, kw_only=True)
class StageProgress:
    """How far a stage is. `done` and `total` count what `unit` says; a stage ends with done == total."""

    stage: Stage
    done: int
    total: int
    unit: Literal["bytes", "tokens", "tensors", "steps"]
    label: str = ""
    """What is being worked on: a shard, a model."""


@dataclass(frozen=True, kw_only=True)
class Warned:
    """A sentence the user should read although the work goes on."""

    message: str
    hint: str = ""


ConversionEvent: TypeAlias = StageProgress | Warned
Report: TypeAlias = Callable[[ConversionEvent], None]

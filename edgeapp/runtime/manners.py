"""How an engine lives with other programs on the same machine: what it does by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeapp.runtime.client import Replan


@dataclass(frozen=True, kw_only=True)
class Manners:
    """By default it keeps its memory, and does not go on without a GPU that it was planned for."""

    replan: Replan | None = None
    """Asked before each start after a release, and when the GPU was lost."""
    idle_release_s: float = 0.0
    """After so long without a request the engine is released; 0 is never."""
    allow_cpu: bool = False
    """Go on without the GPU when that is lost."""

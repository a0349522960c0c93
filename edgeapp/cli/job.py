"""What `edgeapp run` has decided before anything is loaded. Frozen facts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeapp.cli.adapters import Adapter
    from edgeapp.runtime.planning import EngineChoice
    from edgeapp.session import ChatSettings


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is loaded and where, the adapters beside it, and what is asked with every message."""

    model: str
    """The name that the user knows it by."""
    engine: EngineChoice
    settings: ChatSettings
    adapters: tuple[Adapter, ...]
    idle_release_s: float
    """After so long without a question the engine's memory is freed; 0 is never."""
    allow_cpu: bool
    """Go on on the CPU when the GPU is lost."""

"""What `edgeapp run` has decided before anything is loaded. Frozen facts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeapp.cli.adapters import Adapter
    from edgeapp.protocol import Load
    from edgeapp.session import ChatSettings


@dataclass(frozen=True, kw_only=True)
class Job:
    """How the model is loaded, the adapters beside it, and what is asked with every message."""

    load: Load
    settings: ChatSettings
    adapters: tuple[Adapter, ...]

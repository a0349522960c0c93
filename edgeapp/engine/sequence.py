"""One sequence of a context, and what is known of it. Knows no llama.cpp."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgeapp.engine.checkpoints import Checkpoints


@dataclass(kw_only=True, eq=False)
class Sequence:
    """One sequence of the context. `key` names the adapters its KV was computed with."""

    id: int
    tokens: list[int] = field(default_factory=list)
    rendered: bytes = b""
    """The text that the tokens spell, as bytes, because one may end inside a character; empty if unknown."""
    key: str = ""
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    n_shared: int = 0
    """How many of the tokens share their cells with the sequence they were copied from."""
    is_busy: bool = False
    used_at: int = 0

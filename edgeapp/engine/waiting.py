"""Requests that wait for a free slot, interactive ones first. Pure: knows no model and no clock."""

from __future__ import annotations

import bisect
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeapp.engine.answering import Answering
    from edgeapp.engine.prefix_store import SavedSequence
    from edgeapp.engine.prompts import Prompt
    from edgeapp.protocol import Generate

_BATCH = 1 << 62
"""Added to the rank of requests that are not interactive."""


@dataclass(frozen=True, kw_only=True)
class Parked:
    """An answer that had to leave its slot, and its KV."""

    answering: Answering
    saved: SavedSequence


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """`rank` orders requests for as long as they live.

    `prompt` is set once it has been read, `parked` when the answer has begun.
    """

    request: Generate
    rank: int
    arrived_s: float
    prompt: Prompt | None = None
    parked: Parked | None = None

    @property
    def is_batch(self) -> bool:
        return self.rank >= _BATCH

    @property
    def n_tokens(self) -> int:
        """How many tokens of the KV cache it needs to begin, or to go on."""
        if self.parked is not None:
            return len(self.parked.saved.tokens)
        return len(self.prompt.tokens) if self.prompt is not None else 0

    def parked_as(self, parked: Parked) -> Waiting:
        return replace(self, parked=parked)

    def with_prompt(self, prompt: Prompt) -> Waiting:
        return replace(self, prompt=prompt)


class WaitingRoom:
    """A queue by rank: interactive before batch, then first come, first served."""

    def __init__(self) -> None:
        self._queue: list[Waiting] = []
        self._n_arrived = 0

    def __len__(self) -> int:
        return len(self._queue)

    def __iter__(self) -> Iterator[Waiting]:
        return iter(self._queue)

    def arrive(self, request: Generate, *, now_s: float) -> None:
        """Queue a new request."""
        self._n_arrived += 1
        rank = self._n_arrived + (_BATCH if request.priority == "batch" else 0)
        self.come_back(Waiting(request=request, rank=rank, arrived_s=now_s))

    def come_back(self, waiting: Waiting) -> None:
        """Queue one that had left already, at its old rank."""
        bisect.insort(self._queue, waiting, key=lambda item: item.rank)

    def peek(self) -> Waiting | None:
        return self._queue[0] if self._queue else None

    def replace_first(self, waiting: Waiting) -> None:
        self._queue[0] = waiting

    def leave(self, request_id: int) -> Waiting | None:
        """Take the request with this id out, wherever it is."""
        for index, waiting in enumerate(self._queue):
            if waiting.request.id == request_id:
                return self._queue.pop(index)
        return None

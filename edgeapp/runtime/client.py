"""What a front end may ask of an engine, and the events it gets back.

`EngineClient` is the one interface between front ends and engines. `edgeapp.runtime.worker_client` is
the real thing; UI tests have a scripted second implementation that passes the same contract tests.
All text in these events has been cleaned for the terminal.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from edgeapp.protocol import (
    Delta,
    Done,
    ExpertUsage,
    Failed,
    Generate,
    Loaded,
    Memory,
    Message,
    Notice,
    Progress,
    ToolCallDelta,
)

GenerationEvent: TypeAlias = Progress | Delta | ToolCallDelta | Done | Failed
"""A generation yields any number of `Progress` (prefill), `Delta` and `ToolCallDelta`, then exactly one
`Done` or `Failed`."""


@dataclass(frozen=True, kw_only=True)
class EngineDown:
    """The worker is gone. `reason` is a sentence."""

    reason: str
    hint: str
    retry_in_s: float | None
    """When a new one is started by itself; None after too many deaths: the model is in quarantine."""


StatusEvent: TypeAlias = Progress | Loaded | Notice | Memory | ExpertUsage | EngineDown
"""Things about the engine itself, whether or not a generation runs."""

StatusListener: TypeAlias = Callable[[StatusEvent], None]


class Generation(Protocol):
    """A running answer. Iterate it once."""

    def __aiter__(self) -> AsyncIterator[GenerationEvent]: ...

    def cancel(self) -> None:
        """Ask for the end; the iteration still finishes with `Done(finish_reason="cancelled")`."""


class EngineClient(Protocol):
    """An engine that has been told which model it serves."""

    def watch(self, listener: StatusListener) -> None:
        """Call `listener` in the event loop for every status event from now on."""

    async def load(self) -> Loaded:
        """Start the engine and load the model, once; later and concurrent calls share the result.

        Raise `EdgeappError` when the model cannot be loaded.
        """

    def generate(self, request: Generate) -> Generation:
        """Answer `request`; loads first if need be. A failure arrives as a `Failed` event."""

    async def count_tokens(self, messages: Sequence[Message]) -> int:
        """Return how many tokens the prompt of this conversation has. Raise `EdgeappError`."""

    async def aclose(self) -> None:
        """End the engine and free its memory. Safe to call twice."""

"""What a front end may ask of an engine, and the events it gets back.

`EngineClient` is the one interface between front ends and engines. `edgeapp.runtime.worker_client` is
the real thing; UI tests have a scripted second implementation that passes the same contract tests.
All text in these events has been cleaned for the terminal.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from edgeapp.protocol import (
    Delta,
    Done,
    ExpertUsage,
    Failed,
    Generate,
    Load,
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
    """When a new one is started by itself; None when none is: after too many deaths, or without its GPU."""


@dataclass(frozen=True, kw_only=True)
class Released:
    """The engine has been ended on purpose and holds no memory; the next request brings it up again."""

    n_conversations: int
    """Whose computed state waits for it; others are read again from their text."""
    why: Literal["asked", "idle"] = "asked"


StatusEvent: TypeAlias = Progress | Loaded | Notice | Memory | ExpertUsage | EngineDown | Released
"""Things about the engine itself, whether or not a generation runs."""

StatusListener: TypeAlias = Callable[[StatusEvent], None]

Replan: TypeAlias = Callable[[], Awaitable[tuple[Load, Sequence[Load]]]]
"""Plans for the memory that is free at that moment: how to load, and what to try when that does not fit.
Raises `EdgeappError`."""


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

    @property
    def is_released(self) -> bool:
        """Whether the engine was ended by `release` or for being idle, and has not been asked for since."""

    async def release(self) -> None:
        """Free all memory now, on the GPU too; the conversations' computed state is kept on disk.

        Running answers end as cancelled, a load that runs is given up. The next request loads again and goes
        on where the conversation was.
        """

    async def change(self, load: Load, fallbacks: Sequence[Load] = ()) -> Loaded:
        """Load anew as `load` says, or as one of `fallbacks` when memory runs out, and keep conversations.

        Running answers have a while to finish, then they end as cancelled; new ones wait. Raise
        `EdgeappError`: then the next request loads as it was before.
        """

    async def count_tokens(self, messages: Sequence[Message]) -> int:
        """Return how many tokens the prompt of this conversation has. Raise `EdgeappError`."""

    async def aclose(self) -> None:
        """End the engine and free its memory. Safe to call twice."""

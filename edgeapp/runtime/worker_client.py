"""The real engine client: one worker process, loaded with one model, started again when it dies.

`edgeapp.runtime.keeper` keeps the worker, `edgeapp.runtime.generation` follows an answer. What the worker
says is cleaned by `edgeapp.runtime.cleaning`, once, for every front end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.protocol import (
    CountTokens,
    Generate,
    Load,
    Loaded,
    Message,
    Progress,
    Request,
    TokenCount,
    Tokenize,
    Tokens,
)
from edgeapp.runtime.exchange import AnswerT, ending
from edgeapp.runtime.generation import WorkerGeneration
from edgeapp.runtime.keeper import EngineKeeper, outcome
from edgeapp.runtime.quarantine import RestartPolicy
from edgeapp.runtime.watchdog import patience

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.runtime.client import Generation, StatusEvent, StatusListener

HANG_TIMEOUT_S = 180.0
"""Silence after which a busy worker counts as hung although it computes."""


class WorkerClient:
    """`EngineClient` over a worker process. `load` tells which model, context and threads."""

    def __init__(
        self, load: Load, *, hang_timeout_s: float = HANG_TIMEOUT_S, restarts: RestartPolicy | None = None
    ) -> None:
        self._keeper = EngineKeeper(
            load, patience=patience(hang_timeout_s), policy=restarts or RestartPolicy()
        )

    # EngineClient ---------------------------------------------------------------------------

    def watch(self, listener: StatusListener) -> None:
        self._keeper.watch(listener)

    async def load(self) -> Loaded:
        return await outcome(self._keeper.wanted())

    def generate(self, request: Generate) -> Generation:
        return WorkerGeneration(self._keeper, request)

    async def count_tokens(self, messages: Sequence[Message]) -> int:
        return (await self.ask(CountTokens(messages=tuple(messages)), TokenCount)).n_tokens

    async def aclose(self) -> None:
        await self._keeper.aclose()

    # What only a worker can do --------------------------------------------------------------

    async def load_anew(self) -> Loaded:
        """Load although the model is in quarantine, as it was asked for at first. Raise `EdgeappError`."""
        self._keeper.forgive()
        return await self.load()

    async def tokenize(
        self, text: str, *, add_special: bool = False, parse_special: bool = False
    ) -> tuple[int, ...]:
        """Return the tokens of `text`. Raise `EdgeappError`.

        `add_special` adds BOS and EOS where the vocabulary wants them, `parse_special` turns control strings
        into their tokens.
        """
        request = Tokenize(id=0, text=text, add_special=add_special, parse_special=parse_special)
        return (await self.ask(request, Tokens)).ids

    async def ask(self, request: Request, answer: type[AnswerT]) -> AnswerT:
        """Send `request` under an id of its own and return the `answer` that ends it. Raise `EdgeappError`.

        When the caller is cancelled, so is the request. It is sent once: a worker that dies may have carried
        out a part of it.
        """
        worker = await self._keeper.loaded_worker()
        with worker.exchanges.open(answer) as exchange:
            exchange.send(request)
            event = await ending(exchange, answer, self._tell_all_but_progress)
        self._keeper.done(request)
        return event

    @property
    def worker_pid(self) -> int | None:
        return self._keeper.worker_pid

    def _tell_all_but_progress(self, status: StatusEvent) -> None:
        """A listener takes progress for that of a load."""
        if not isinstance(status, Progress):
            self._keeper.tell(status)

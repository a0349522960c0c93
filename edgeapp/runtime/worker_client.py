"""The real engine client: one worker process, loaded with one model, started again when it dies.

`edgeapp.runtime.keeper` keeps the worker, `edgeapp.runtime.generation` follows an answer. What the worker
says is cleaned by `edgeapp.runtime.cleaning`, once, for every front end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.protocol import (
    CountTokens,
    DropCaches,
    Dropped,
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
from edgeapp.runtime.keeper import EngineKeeper
from edgeapp.runtime.manners import Manners
from edgeapp.runtime.quarantine import RestartPolicy
from edgeapp.runtime.start import outcome
from edgeapp.runtime.tighter import Ladder
from edgeapp.runtime.watchdog import patience

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.runtime.client import Generation, Replan, StatusEvent, StatusListener

HANG_TIMEOUT_S = 180.0
"""Silence after which a busy worker counts as hung although it computes."""


FINISH_S = 30.0
"""How long running answers may go on when the engine is to be loaded anew."""


class WorkerClient:
    """`EngineClient` over a worker process. `load` tells which model, context and threads.

    `fallbacks` are tried in their order when memory runs out, the first three; without any, a usual ladder.
    `replan` is asked before each start after a release, and when the GPU was lost; `allow_cpu` lets the
    engine go on without a GPU then. After `idle_release_s` seconds without a request, 0 is never, the engine
    is released.
    """

    def __init__(
        self,
        load: Load,
        *,
        fallbacks: Sequence[Load] = (),
        replan: Replan | None = None,
        idle_release_s: float = 0.0,
        allow_cpu: bool = False,
        hang_timeout_s: float = HANG_TIMEOUT_S,
        restarts: RestartPolicy | None = None,
    ) -> None:
        self._keeper = EngineKeeper(
            Ladder(load, fallbacks),
            patience=patience(hang_timeout_s),
            policy=restarts or RestartPolicy(),
            manners=Manners(replan=replan, idle_release_s=idle_release_s, allow_cpu=allow_cpu),
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

    @property
    def is_released(self) -> bool:
        return self._keeper.is_released

    async def release(self) -> None:
        await self._keeper.release()

    async def change(
        self, load: Load, fallbacks: Sequence[Load] = (), *, finish_s: float = FINISH_S
    ) -> Loaded:
        """See `EngineClient.change`; running answers have `finish_s` seconds to end by themselves."""
        return await self._keeper.change(load, fallbacks, finish_s=finish_s)

    async def aclose(self) -> None:
        await self._keeper.aclose()

    # What only a worker can do --------------------------------------------------------------

    def tell(self, event: StatusEvent) -> None:
        """Say something about the engine to everybody who listens."""
        self._keeper.tell(event)

    async def drop_caches(self) -> Dropped:
        """Forget the conversations that were not continued last, and give their memory back."""
        return await self.ask(DropCaches(), Dropped)

    async def lose_device(self, reason: str) -> None:
        """Take note that the system has lost the GPU; `reason` is a sentence.

        Running answers fail. The engine goes on without it where that is allowed; else the next request tries
        again, once.
        """
        await self._keeper.lose_device(reason)

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
    def loaded(self) -> Loaded | None:
        """What the worker said when it had loaded the model; None while there is none."""
        return self._keeper.loaded

    @property
    def present_load(self) -> Load:
        """How the model is loaded, or will be when somebody asks."""
        return self._keeper.load

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered."""
        return self._keeper.is_busy

    @property
    def worker_pid(self) -> int | None:
        return self._keeper.worker_pid

    def _tell_all_but_progress(self, status: StatusEvent) -> None:
        """A listener takes progress for that of a load."""
        if not isinstance(status, Progress):
            self._keeper.tell(status)

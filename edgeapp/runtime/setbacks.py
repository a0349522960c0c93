"""How the model is loaded next, after all that went wrong: deaths, too little memory, a lost GPU.

Decides and says so; starts nothing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from edgeapp.errors import DeviceLost, EngineCrashed, NotEnoughMemory
from edgeapp.protocol import Notice
from edgeapp.runtime.client import EngineDown
from edgeapp.runtime.quarantine import Deaths

if TYPE_CHECKING:
    from edgeapp.errors import EngineError
    from edgeapp.protocol import Load
    from edgeapp.runtime.client import StatusListener
    from edgeapp.runtime.gpu_loss import GpuLoss
    from edgeapp.runtime.quarantine import RestartPolicy
    from edgeapp.runtime.tighter import Ladder


class Setbacks:
    """Where one model stands. `tell` gets what users should know."""

    def __init__(self, ladder: Ladder, *, policy: RestartPolicy, loss: GpuLoss, tell: StatusListener) -> None:
        self.ladder = ladder
        self.loss = loss
        self._tell = tell
        self._deaths = Deaths(policy)
        self._tightened = ""
        """A sentence about what was given up, until it was told."""
        self._refusal: NotEnoughMemory | None = None
        """The first one of the start that runs."""

    @property
    def load(self) -> Load:
        """How to load next."""
        return self.ladder.load

    @property
    def pause_s(self) -> float:
        """How long to wait before the next start."""
        return self._deaths.pause_s

    def use(self, ladder: Ladder) -> None:
        """There is a new plan."""
        self.ladder, self._tightened = ladder, ""
        self.loss.planned(ladder.load)

    def begin(self) -> None:
        """Somebody asks for a start."""
        self.loss.begin()
        self._refusal = None

    def loaded(self) -> None:
        """A start succeeded: tell what it took."""
        if self._tightened:
            self._tell(Notice(code="started_tighter", message=self._tightened))
            self._tightened = ""
        remark = self.loss.remark()
        if remark is not None:
            self._tell(remark)

    def answered(self) -> None:
        """A worker has done what it was asked for."""
        self._deaths.answered()

    def forgive(self) -> None:
        """Forget what went wrong: the next start is as it was planned."""
        self._deaths.forgive()
        self.ladder.start_again()
        self._tightened = ""

    # Deaths ----------------------------------------------------------------------------------------------

    def died(self, death: EngineError) -> None:
        """Draw the conclusions from a death, and tell them."""
        self.count(death)
        if self.is_quarantined:
            error = self._quarantine_error()
            self._tell(EngineDown(reason=error.message, hint=error.hint, retry_in_s=None))
            return
        tightened = isinstance(death, EngineCrashed) and death.out_of_memory and self._tighten()
        hint = f"{death.hint} {self._tightened}" if tightened else death.hint
        self._tell(EngineDown(reason=death.message, hint=hint, retry_in_s=self.pause_s))

    def count(self, death: EngineError) -> None:
        """Remember a death that is told otherwise."""
        self._deaths.add(_now_s(), death.message)

    @property
    def is_quarantined(self) -> bool:
        """Whether the model is left alone for now."""
        return self._deaths.quarantined(_now_s()) is not None

    def refuse_in_quarantine(self) -> None:
        """Raise `EngineQuarantined` while the model is left alone."""
        if self.is_quarantined:
            raise self._quarantine_error()

    def _quarantine_error(self) -> EngineError:
        quarantined = self._deaths.quarantined(_now_s())
        assert quarantined is not None  # noqa: S101 - asked before, at the same time
        return quarantined.error(_now_s())

    # The GPU ---------------------------------------------------------------------------------------------

    async def go_on_without(self, loss: DeviceLost) -> None:
        """Plan again for what is left; raise `loss` when that may not be, or does not help."""
        try:
            self.use(await self.loss.plan_without(loss, self.load))
        except DeviceLost:
            self._tell(EngineDown(reason=loss.message, hint=loss.hint, retry_in_s=None))
            raise

    # Memory ----------------------------------------------------------------------------------------------

    def step_down(self, refusal: NotEnoughMemory) -> None:
        """Plan the next start with less memory.

        When nothing is left to give up, raise the first refusal, and let the next start try the whole plan.
        """
        self._refusal = self._refusal or refusal
        if not self._tighten():
            exhausted = _with_tries(self._refusal, self.ladder)
            self.ladder.start_again()
            raise exhausted
        self._tell(EngineDown(reason=refusal.message, hint=self._tightened, retry_in_s=0.0))

    def _tighten(self) -> bool:
        if not self.ladder.step_down():
            return False
        self._tightened = f"To need less memory, the engine now runs with {self.ladder.given_up}."
        return True


def _with_tries(refusal: NotEnoughMemory, ladder: Ladder) -> NotEnoughMemory:
    """Return `refusal` with what was tried in vain."""
    if not ladder.tried:
        return refusal
    tried = "; ".join(ladder.tried)
    return NotEnoughMemory(
        refusal.message,
        needed_bytes=refusal.needed_bytes,
        free_bytes=refusal.free_bytes,
        hint=f"It was tried with {tried}, too. {refusal.hint}".strip(),
    )


def _now_s() -> float:
    return asyncio.get_running_loop().time()

"""What to do when the GPU is gone: plan again, and go on without it only where the user allowed that.

Knows names of devices and how to load, no process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from edgeapp.errors import DeviceLost
from edgeapp.protocol import Notice
from edgeapp.runtime.tighter import Ladder

if TYPE_CHECKING:
    from collections.abc import Collection

    from edgeapp.protocol import Load
    from edgeapp.runtime.client import Replan

_HINT = "Your chat is kept. Send a message when the GPU is back, or allow going on without it."


class GpuLoss:
    """Follows which devices worked, and whether the engine goes on without one."""

    def __init__(self, *, allow_cpu: bool, replan: Replan | None) -> None:
        self._allow_cpu = allow_cpu
        self._replan = replan
        self._worked: set[str] = set()
        self._has_planned = False
        self._is_told = True
        self.is_certain = False
        """The system says so, whatever the engine finds when it starts again."""
        self.is_without = False
        """The engine goes on without a GPU, and had better not even look for one."""

    def begin(self) -> None:
        """Somebody asks for the engine: one more plan may be made."""
        self._has_planned = False

    def planned(self, load: Load) -> None:
        """There is a new plan: one with a GPU looks for it again."""
        self.is_without = self.is_without and not load.device

    def has_worked(self, load: Load) -> bool:
        """Tell whether a model was loaded on that device before."""
        return load.device in self._worked

    def loaded(self, load: Load) -> None:
        """A model has been loaded so."""
        if load.device:
            self._worked.add(load.device)

    def check(self, load: Load, found: Collection[str]) -> None:
        """Raise `DeviceLost` when the device of `load` worked before and is not among those `found`."""
        if self.has_worked(load) and (self.is_certain or load.device not in found):
            raise DeviceLost(f"The GPU {load.device} was lost.", hint=_HINT)

    async def plan_without(self, loss: DeviceLost, load: Load) -> Ladder:
        """Return how to go on. Raise `loss` when that is not allowed, or was tried, else `EdgeappError`."""
        is_tried, self._has_planned, self.is_certain = self._has_planned, True, False
        if is_tried:
            raise loss
        ladder = Ladder(*await self._replan()) if self._replan is not None else on_cpu(load)
        if not ladder.load.device and not self._allow_cpu:
            raise loss
        self.is_without = not ladder.load.device
        self._is_told = not self.is_without
        return ladder

    def remark(self) -> Notice | None:
        """Return, once, that the engine runs without the GPU now."""
        if self._is_told:
            return None
        self._is_told = True
        return Notice(
            code="gpu_lost",
            message="The GPU was lost. The model now runs on the CPU, and the conversation goes on.",
            hint="When the GPU is back, start edgeapp again to use it.",
        )


def on_cpu(load: Load) -> Ladder:
    """Return how to load the same without any GPU."""
    return Ladder(replace(load, device="", n_gpu_layers=0, tensor_overrides=(), load_mode="mmap"))

"""Watch over memory while an engine runs: give way to other programs, and come back when they are done.

Looks at samples of `edgeapp.monitor`, asks `edgeapp.runtime.stewardship` what to do, does it, and says so.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from edgeapp.errors import EdgeappError
from edgeapp.monitor.pressure import watermarks
from edgeapp.protocol import Notice
from edgeapp.runtime.stewardship import Habits, Standing, decide

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from edgeapp.monitor.samples import DeviceSample, MemorySample
    from edgeapp.protocol import Dropped, Load, Loaded
    from edgeapp.runtime.client import StatusEvent
    from edgeapp.runtime.stewardship import Action

CRITICAL_FINISH_S = 5.0
"""How long running answers may go on when other programs are about to fail for want of memory."""


class ReplanWithin(Protocol):
    async def __call__(self, *, max_vram_bytes: int) -> tuple[Load, Sequence[Load]]:
        """Plan for so much of the GPU, whatever is free now: the engine still holds a part of it.

        Raise `EdgeappError`.
        """


class Engine(Protocol):
    """What is asked of `WorkerClient`."""

    @property
    def loaded(self) -> Loaded | None: ...
    @property
    def is_busy(self) -> bool: ...
    @property
    def present_load(self) -> Load: ...
    def tell(self, event: StatusEvent) -> None: ...
    async def drop_caches(self) -> Dropped: ...
    async def change(
        self, load: Load, fallbacks: Sequence[Load] = (), *, finish_s: float = 30.0
    ) -> Loaded: ...
    async def lose_device(self, reason: str) -> None: ...


class Steward:
    """Serves one engine. `reserve_bytes` are what a plan leaves free on the GPU."""

    def __init__(
        self,
        engine: Engine,
        replan: ReplanWithin,
        *,
        reserve_bytes: int,
        habits: Habits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._replan = replan
        self._reserve_bytes = reserve_bytes
        self._habits = habits or Habits()
        self._clock = clock
        self._standing = Standing()
        self._ram_standing = Standing()
        self._is_lost = False

    async def run(self, samples: AsyncIterator[MemorySample]) -> None:
        """Look at each of `samples` until there are no more."""
        async for sample in samples:
            await self.look(sample)

    async def look(self, sample: MemorySample) -> None:
        """Draw the conclusions from one look at memory."""
        if self._engine.loaded is None:
            return
        await self._look_at_ram(sample)
        device = device_named(sample.devices, self._engine.present_load.device)
        if device is not None and not await self._is_gone(device):
            await self._look_at_vram(device)

    async def _is_gone(self, device: DeviceSample) -> bool:
        was_lost, self._is_lost = self._is_lost, device.lost
        if device.lost and not was_lost:
            await self._engine.lose_device("The driver says that the GPU has gone.")
        return device.lost

    async def _look_at_ram(self, sample: MemorySample) -> None:
        """Here only what is kept for speed can go: weights would be read from the disk again and again."""
        ram = sample.ram
        marks = watermarks(ram.total_bytes, min(self._reserve_bytes, ram.total_bytes // 10))
        self._ram_standing, action = decide(
            self._ram_standing,
            free_bytes=ram.available_bytes,
            now_s=self._clock(),
            marks=marks,
            habits=self._habits,
            may_shrink=False,
        )
        if action == "drop caches":
            await self._drop_caches()

    async def _look_at_vram(self, device: DeviceSample) -> None:
        before = self._standing
        after, action = decide(
            before,
            free_bytes=device.free_bytes,
            now_s=self._clock(),
            marks=watermarks(device.total_bytes, self._reserve_bytes),
            habits=self._habits,
        )
        if action == "grow" and self._engine.is_busy:
            return  # there is no hurry: the answer comes first
        self._standing = after
        await self._do(action, device)

    async def _do(self, action: Action, device: DeviceSample) -> None:
        match action:
            case "none":
                return
            case "drop caches":
                await self._drop_caches()
            case "shrink" | "grow":
                try:
                    await self._change(action, device)
                except EdgeappError as problem:
                    self._tell("replan_failed", f"The model keeps its place: {problem.message}", problem.hint)

    async def _drop_caches(self) -> None:
        try:
            dropped = await self._engine.drop_caches()
        except EdgeappError:
            return  # the engine has ended, and its caches with it
        if dropped.n_conversations:
            self._tell(
                "caches_dropped",
                "Memory runs short: the computed state of older conversations"
                f" was given up{f' ({_mib(dropped.bytes)})' if dropped.bytes >> 20 else ''}.",
                "They are read again from their text when they are continued.",
            )

    async def _change(self, action: Action, device: DeviceSample) -> None:
        budget_bytes = max(0, device.free_bytes + self._held_bytes() - self._reserve_bytes)
        load, fallbacks = await self._replan(max_vram_bytes=budget_bytes)
        if load == self._engine.present_load or self._engine.loaded is None:
            return  # it is as it should be, or was released meanwhile
        is_critical = self._standing.pressure.level == "critical"
        self._tell(
            f"engine_{action}s",
            f"Other programs need the GPU: the model moves into {_mib(budget_bytes)}."
            if action == "shrink"
            else f"The GPU is free again: the model moves into {_mib(budget_bytes)}.",
            "The conversation is kept.",
        )
        if is_critical:
            await self._engine.change(load, fallbacks, finish_s=CRITICAL_FINISH_S)
        else:
            await self._engine.change(load, fallbacks)

    def _held_bytes(self) -> int:
        """Return what the engine holds of its GPU."""
        name = self._engine.present_load.device
        loaded = self._engine.loaded
        buffers = loaded.buffers if loaded is not None else ()
        return sum(
            use.weights_bytes + use.kv_bytes + use.compute_bytes for use in buffers if use.device == name
        )

    def _tell(self, code: str, message: str, hint: str) -> None:
        self._engine.tell(Notice(code=code, message=message, hint=hint))


def device_named(devices: Sequence[DeviceSample], name: str) -> DeviceSample | None:
    """Return the sample of the device that ggml calls `name`, None for no device.

    NVML counts cards where CUDA has names. With CUDA_VISIBLE_DEVICES set the counts may differ.
    """
    theirs = f"GPU {name.removeprefix('CUDA')}" if name.startswith("CUDA") else name
    return next((device for device in devices if device.name in (name, theirs)), None)


def _mib(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:,.0f} MiB"

"""A memory panel that looks for itself, again and again, while it is on the screen."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from edgeapp.monitor.history import History
from edgeapp.tui.memory_view import MemoryView
from edgeapp.tui.widgets.memory_panel import MemoryPanel

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeapp.monitor.overview import Overview


class LiveMemory(MemoryPanel):
    """`look` is called in a thread every `interval_s`, because a sick driver answers slowly."""

    def __init__(self, look: Callable[[], Overview], *, interval_s: float = 1.0) -> None:
        super().__init__()
        self._look = look
        self._interval_s = interval_s
        self._history = History()
        self.is_paused = False

    def on_mount(self) -> None:
        self.run_worker(self._watch())

    async def _watch(self) -> None:
        while True:
            if self.display and not self.is_paused:
                overview = await asyncio.to_thread(self._look)
                if not self.is_paused:
                    self._show(overview)
            await asyncio.sleep(self._interval_s)

    def _show(self, overview: Overview) -> None:
        self._history.append(overview.sample)
        names = [device.name for device in overview.sample.devices]
        self.view = MemoryView(
            overview=overview,
            device_use={name: self._history.device_use(name) for name in names},
            ram_use=self._history.ram_use(),
        )

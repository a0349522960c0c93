"""Memory as one front end sees it: its own processes are "ours", its engine's devices are known."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from edgeapp.hardware import child_pids
from edgeapp.monitor.samples import MemorySampler
from edgeapp.protocol import Memory

if TYPE_CHECKING:
    from edgeapp.monitor.samples import MemorySample
    from edgeapp.protocol import Device


class OwnMemory:
    """Follows the engine of this process. Give `look` to `edgeapp.monitor.samples.watch`."""

    def __init__(self) -> None:
        self._sampler = MemorySampler()
        self._devices: tuple[Device, ...] = ()

    def observe(self, event: object) -> None:
        """Take in a status event of the engine; all but its devices are ignored."""
        if isinstance(event, Memory):
            self._devices = event.devices

    def look(self) -> MemorySample:
        """Return memory now."""
        pid = os.getpid()
        return self._sampler.sample({pid, *child_pids(pid)}, engine_devices=self._devices)

    def close(self) -> None:
        self._sampler.close()

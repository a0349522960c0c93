"""Memory and running engines together, as `edgeapp top` shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from edgeapp.hardware import child_pids
from edgeapp.monitor.components import device_parts, ram_parts, uses_on
from edgeapp.monitor.running import read_running
from edgeapp.monitor.samples import MemorySampler

if TYPE_CHECKING:
    from types import TracebackType

    from edgeapp.monitor.components import Part
    from edgeapp.monitor.samples import DeviceSample, MemorySample
    from edgeapp.monitor.status import EngineStatus


@dataclass(frozen=True, kw_only=True)
class Overview:
    """One moment."""

    sample: MemorySample
    engines: tuple[EngineStatus, ...] = ()

    def parts_of(self, device: DeviceSample) -> tuple[Part, ...]:
        return device_parts(device, uses_on(device, self.sample, self.engines))

    @property
    def ram_parts(self) -> tuple[Part, ...]:
        return ram_parts(self.sample.ram)


class Overlook:
    """Looks at everything. Not for two threads at once; `close()` it, or use it as a context manager."""

    def __init__(self) -> None:
        self._sampler = MemorySampler()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._sampler.close()

    def look(self) -> Overview:
        """Return the state of this moment."""
        engines = read_running()
        pids = {pid for engine in engines for pid in (engine.pid, *child_pids(engine.pid))}
        devices = [device for engine in engines for device in engine.devices]
        return Overview(sample=self._sampler.sample(pids, engine_devices=devices), engines=engines)

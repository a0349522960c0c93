"""The last samples, for pictures of how memory use went. Pure."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeapp.monitor.samples import MemorySample

DEFAULT_LENGTH = 300
"""Five minutes at a sample a second; wider than any terminal."""


class History:
    """Keeps the last `length` samples, the oldest first."""

    def __init__(self, length: int = DEFAULT_LENGTH) -> None:
        self._samples: deque[MemorySample] = deque(maxlen=length)

    def __len__(self) -> int:
        return len(self._samples)

    def append(self, sample: MemorySample) -> None:
        self._samples.append(sample)

    def device_use(self, name: str) -> tuple[float, ...]:
        """Return which share of the device's memory was in use, 0 to 1; 0 while it was not there."""
        return tuple(_share_used(sample, name) for sample in self._samples)

    def ram_use(self) -> tuple[float, ...]:
        """Return which share of RAM was in use, 0 to 1."""
        return tuple(
            sample.ram.used_bytes / sample.ram.total_bytes if sample.ram.total_bytes else 0.0
            for sample in self._samples
        )


def _share_used(sample: MemorySample, name: str) -> float:
    for device in sample.devices:
        if device.name == name and device.total_bytes and not device.lost:
            return device.used_bytes / device.total_bytes
    return 0.0

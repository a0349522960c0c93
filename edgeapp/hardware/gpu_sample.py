"""What one GPU was doing at one moment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class GpuProcess:
    """A process on a GPU. `used_bytes` None: the driver does not tell, as under WSL."""

    pid: int
    name: str
    used_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class GpuSample:
    """One card at one moment. None is not supported here; when `lost`, sizes are those last seen."""

    index: int
    name: str
    total_bytes: int
    free_bytes: int
    ours: tuple[GpuProcess, ...] = ()
    others: tuple[GpuProcess, ...] = ()
    """The biggest first."""
    utilisation_percent: int | None = None
    """Share of the last moments in which a kernel ran."""
    memory_utilisation_percent: int | None = None
    """Share of the last moments in which its memory was read or written."""
    temperature_c: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    pcie_generation: int | None = None
    pcie_max_generation: int | None = None
    pcie_width: int | None = None
    pcie_max_width: int | None = None
    throttles: tuple[str, ...] | None = None
    """Why its clock is held down: "power cap", "thermal", …"""
    lost: bool = False

    @property
    def used_bytes(self) -> int:
        return max(self.total_bytes - self.free_bytes, 0)

    @property
    def ours_bytes(self) -> int | None:
        """None when none of our processes is known to it, or not with how much."""
        known = [process.used_bytes for process in self.ours if process.used_bytes is not None]
        return sum(known) if known else None

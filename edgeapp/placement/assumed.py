"""How fast a machine is by its names alone, until `edgeapp tune` has measured it. Cautious; reads nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from edgeapp.placement.machine import DeviceFacts, HostFacts, Machine

if TYPE_CHECKING:
    from edgeapp.hardware import Gpu, Host

RAM_READ_BPS = 40e9 * 0.55
"""Two channels of usual DDR4/DDR5, of which reported expert reading reaches 40 to 55 %."""
CORE_READ_BPS = 8e9
"""One core alone does not fill the memory's channels."""
CORE_FLOPS = 40e9
"""Quantised matrix multiplication on one core with AVX2."""
QUANTISED_SHARE = 1.0
"""Of a card's published FP32 rate: tensor cores do more, but not with small experts. What reported prefill
speeds of quantised MoE models on a 3090 and a 4090 amount to."""
READ_SHARE = 0.85
"""Of a card's published bandwidth that reading weights reaches."""
PAGEABLE_SHARE = 0.5
"""Of the pinned speed: prefill of 298 against 544 tokens a second without and with page-locked experts."""
SYNC_S = 60e-6
"""Leaving the GPU for one layer's experts and coming back: launch, two small copies, waking the threads."""
_REMOTE = "RPC"
"""ggml's name for devices of another process; they are only given what lies in their own memory."""
_GBPS, _TFLOPS = 1e9, 1e12


@dataclass(frozen=True, kw_only=True)
class _Card:
    """Published memory bandwidth and FP32 rate; the bus as copies from page-locked memory reach it."""

    read_gbps: float
    fp32_tflops: float
    bus_gbps: float


_PCIE3, _PCIE4_X8, _PCIE4, _PCIE5_X8, _PCIE5 = 12.0, 12.5, 25.0, 25.0, 50.0
_PUBLISHED: tuple[tuple[str, float, float, float], ...] = (
    # NVIDIA's product pages; the longest name that a card's contains counts.
    ("GTX 1660", 192, 5.0, _PCIE3),
    ("RTX 2060", 336, 6.5, _PCIE3),
    ("RTX 2070", 448, 7.5, _PCIE3),
    ("RTX 2080", 448, 10.1, _PCIE3),
    ("RTX 2080 Ti", 616, 13.5, _PCIE3),
    ("RTX 3050", 224, 9.1, _PCIE4_X8),
    ("RTX 3060", 360, 12.7, _PCIE4),
    ("RTX 3060 Laptop", 336, 10.9, _PCIE4_X8),
    ("RTX 3060 Ti", 448, 16.2, _PCIE4),
    ("RTX 3070", 448, 20.3, _PCIE4),
    ("RTX 3070 Laptop", 448, 15.9, _PCIE4_X8),
    ("RTX 3070 Ti", 608, 21.7, _PCIE4),
    ("RTX 3080", 760, 29.8, _PCIE4),
    ("RTX 3080 Laptop", 448, 18.9, _PCIE4_X8),
    ("RTX 3080 Ti", 912, 34.1, _PCIE4),
    ("RTX 3090", 936, 35.6, _PCIE4),
    ("RTX 3090 Ti", 1008, 40.0, _PCIE4),
    ("RTX 4050 Laptop", 192, 12.0, _PCIE4_X8),
    ("RTX 4060", 272, 15.1, _PCIE4_X8),
    ("RTX 4060 Laptop", 256, 14.6, _PCIE4_X8),
    ("RTX 4060 Ti", 288, 22.1, _PCIE4_X8),
    ("RTX 4070", 504, 29.1, _PCIE4),
    ("RTX 4070 Laptop", 256, 15.6, _PCIE4_X8),
    ("RTX 4070 SUPER", 504, 35.5, _PCIE4),
    ("RTX 4070 Ti", 504, 40.1, _PCIE4),
    ("RTX 4070 Ti SUPER", 672, 44.1, _PCIE4),
    ("RTX 4080", 717, 48.7, _PCIE4),
    ("RTX 4080 Laptop", 432, 24.7, _PCIE4),
    ("RTX 4080 SUPER", 736, 52.2, _PCIE4),
    ("RTX 4090", 1008, 82.6, _PCIE4),
    ("RTX 4090 Laptop", 576, 33.0, _PCIE4),
    ("RTX 5050", 320, 13.2, _PCIE5_X8),
    ("RTX 5060", 448, 19.2, _PCIE5_X8),
    ("RTX 5060 Laptop", 384, 17.0, _PCIE5_X8),
    ("RTX 5060 Ti", 448, 23.7, _PCIE5_X8),
    ("RTX 5070", 672, 30.9, _PCIE5),
    ("RTX 5070 Laptop", 384, 23.2, _PCIE5_X8),
    ("RTX 5070 Ti", 896, 43.9, _PCIE5),
    ("RTX 5070 Ti Laptop", 672, 29.0, _PCIE5_X8),
    ("RTX 5080", 960, 56.3, _PCIE5),
    ("RTX 5080 Laptop", 896, 38.0, _PCIE5),
    ("RTX 5090", 1792, 104.8, _PCIE5),
    ("RTX 5090 Laptop", 896, 49.0, _PCIE5),
    ("RTX A4000", 448, 19.2, _PCIE4),
    ("RTX A5000", 768, 27.8, _PCIE4),
    ("RTX A6000", 768, 38.7, _PCIE4),
    ("RTX 6000 Ada", 960, 91.1, _PCIE4),
    ("RTX PRO 6000", 1792, 125.0, _PCIE5),
    ("Tesla T4", 320, 8.1, _PCIE3),
    ("NVIDIA A10", 600, 31.2, _PCIE4),
    ("NVIDIA A100", 1555, 60.0, _PCIE4),
    ("NVIDIA L4", 300, 30.3, _PCIE4),
    ("NVIDIA L40S", 864, 91.6, _PCIE4),
    ("NVIDIA H100", 2000, 120.0, _PCIE5),
    ("NVIDIA H200", 4800, 134.0, _PCIE5),
)
_BY_COMPUTE_CAPABILITY = {
    7: _Card(read_gbps=300, fp32_tflops=6.0, bus_gbps=_PCIE3),
    8: _Card(read_gbps=256, fp32_tflops=10.0, bus_gbps=_PCIE4_X8),
    9: _Card(read_gbps=2000, fp32_tflops=60.0, bus_gbps=_PCIE5),
    10: _Card(read_gbps=3000, fp32_tflops=70.0, bus_gbps=_PCIE5),
    12: _Card(read_gbps=320, fp32_tflops=13.0, bus_gbps=_PCIE5_X8),
}
"""An unknown card of a generation counts as its slowest."""
_UNKNOWN = _Card(read_gbps=200, fp32_tflops=4.0, bus_gbps=_PCIE3)


class EngineDevice(Protocol):
    """A GPU as the engine reports it."""

    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def total_bytes(self) -> int: ...
    @property
    def free_bytes(self) -> int: ...


def assumed_machine(host: Host, device: EngineDevice | None, gpu: Gpu | None = None) -> Machine:
    """Return what is known of the machine before anything was measured.

    `gpu` is what NVML says about the same card, if anything.
    """
    found = None
    if device is not None:
        found = assumed_device(
            name=device.name,
            description=device.description,
            total_bytes=device.total_bytes,
            free_bytes=device.free_bytes,
            compute_capability=gpu.compute_capability if gpu else (0, 0),
            can_offload=not device.name.startswith(_REMOTE),
        )
    return Machine(host=assumed_host(host), device=found, is_measured=False)


def assumed_host(host: Host) -> HostFacts:
    """Return `host` with the speeds of a usual desktop."""
    return HostFacts(
        total_ram_bytes=host.total_ram_bytes,
        available_ram_bytes=host.available_ram_bytes,
        n_threads=host.physical_cores,
        ram_read_bps=min(RAM_READ_BPS, host.physical_cores * CORE_READ_BPS),
        compute_flops=host.physical_cores * CORE_FLOPS,
    )


def assumed_device(
    *,
    name: str,
    description: str,
    total_bytes: int,
    free_bytes: int,
    compute_capability: tuple[int, int] = (0, 0),
    can_offload: bool = True,
) -> DeviceFacts:
    """Return a GPU with the speeds published for a card of that `description`, else of its generation."""
    card = _card(description, compute_capability)
    return DeviceFacts(
        name=name,
        description=description,
        total_bytes=total_bytes,
        free_bytes=free_bytes,
        read_bps=card.read_gbps * READ_SHARE * _GBPS,
        compute_flops=card.fp32_tflops * QUANTISED_SHARE * _TFLOPS,
        pinned_bps=card.bus_gbps * _GBPS,
        pageable_bps=card.bus_gbps * PAGEABLE_SHARE * _GBPS,
        sync_s=SYNC_S,
        can_offload=can_offload,
    )


def _card(description: str, compute_capability: tuple[int, int]) -> _Card:
    shown = description.lower().replace("geforce ", "").replace("mobile", "laptop")
    known = [row for row in _PUBLISHED if row[0].lower() in shown]
    if not known or ("laptop" in shown and not any("Laptop" in row[0] for row in known)):
        return _BY_COMPUTE_CAPABILITY.get(compute_capability[0], _UNKNOWN)
    _, read_gbps, fp32_tflops, bus_gbps = max(known, key=lambda row: len(row[0]))
    return _Card(read_gbps=read_gbps, fp32_tflops=fp32_tflops, bus_gbps=bus_gbps)

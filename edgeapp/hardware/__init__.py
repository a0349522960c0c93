"""Facts about this machine: GPUs, memory, CPU, processes. The only door to NVML and psutil.

Everything is read at the moment of the call and handed out as frozen values. Knows no model and no plan.
What NVML cannot say (no driver, no library, a card that fell off the bus) is a fact too, not an exception.
"""

from edgeapp.hardware.gpu_sample import GpuProcess, GpuSample
from edgeapp.hardware.gpus import Gpu, GpuReading, read_gpus
from edgeapp.hardware.host import Host, read_host
from edgeapp.hardware.processes import (
    ProcessMemory,
    ProgramMemory,
    biggest_programs,
    boot_identity,
    child_pids,
    process_identity,
    process_memory,
    process_name,
    process_rss_bytes,
)
from edgeapp.hardware.sampling import GpuSampler

__all__ = [
    "Gpu",
    "GpuProcess",
    "GpuReading",
    "GpuSample",
    "GpuSampler",
    "Host",
    "ProcessMemory",
    "ProgramMemory",
    "biggest_programs",
    "boot_identity",
    "child_pids",
    "process_identity",
    "process_memory",
    "process_name",
    "process_rss_bytes",
    "read_gpus",
    "read_host",
]

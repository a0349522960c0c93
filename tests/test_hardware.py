from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pynvml
import pytest

from edgeapp import hardware

_GIB = 1024**3


class TwoGpusOneLost:
    """What NVML answers on a machine whose second card fell off the bus."""

    NVMLError = pynvml.NVMLError

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802 - NVML's name
        return "580.65.06"

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802 - NVML's name
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802 - NVML's name
        if index == 1:
            raise pynvml.NVMLError_GpuIsLost
        return index

    def nvmlDeviceGetMemoryInfo(self, _handle: int) -> SimpleNamespace:  # noqa: N802 - NVML's name
        return SimpleNamespace(total=24 * _GIB, free=23 * _GIB)

    def nvmlDeviceGetCudaComputeCapability(self, _handle: int) -> tuple[int, int]:  # noqa: N802 - NVML's
        return 8, 9

    def nvmlDeviceGetName(self, _handle: int) -> bytes:  # noqa: N802 - NVML's name
        return b"NVIDIA GeForce\x1b]0;owned\x07 RTX 4090"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty /proc and /sys that a test fills with the files a kernel would show."""
    monkeypatch.setattr(hardware, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(hardware, "_SYS", tmp_path / "sys")
    return tmp_path


def put(machine: Path, path: str, text: str) -> None:
    file = machine / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_a_lost_gpu_is_a_problem_in_words_and_the_other_one_still_counts() -> None:
    reading = hardware._read_all(TwoGpusOneLost())

    assert [gpu.index for gpu in reading.gpus] == [0]
    assert reading.gpus[0].free_bytes == 23 * _GIB
    assert reading.gpus[0].compute_capability == (8, 9)
    assert reading.problems == ("GPU 1 does not answer: GPU is lost.",)


def test_a_gpu_name_cannot_carry_escape_sequences() -> None:
    assert "\x1b" not in hardware._read_all(TwoGpusOneLost()).gpus[0].name


def test_this_machines_gpus_are_read_without_an_exception() -> None:
    reading = hardware.read_gpus()

    for gpu in reading.gpus:
        assert 0 <= gpu.free_bytes <= gpu.total_bytes
        assert gpu.driver_version


@pytest.mark.parametrize("error", [pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded])
def test_no_driver_and_no_card_is_an_empty_reading(
    machine: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Any,
) -> None:
    def nvml_init() -> None:
        raise error

    monkeypatch.setattr(pynvml, "nvmlInit", nvml_init)

    assert hardware.read_gpus() == hardware.GpuReading(gpus=())


def test_a_card_without_its_driver_is_reported(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nvml_init() -> None:
        raise pynvml.NVMLError_DriverNotLoaded

    monkeypatch.setattr(pynvml, "nvmlInit", nvml_init)
    put(machine, "sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n")
    put(machine, "sys/bus/pci/devices/0000:01:00.0/class", "0x030000\n")

    reading = hardware.read_gpus()

    assert reading.gpus == ()
    assert reading.problems == ("There is an NVIDIA GPU on the PCI bus, but its driver is not loaded.",)


def test_the_audio_function_of_a_card_is_not_taken_for_a_gpu(machine: Path) -> None:
    put(machine, "sys/bus/pci/devices/0000:01:00.1/vendor", "0x10de\n")
    put(machine, "sys/bus/pci/devices/0000:01:00.1/class", "0x040300\n")

    assert hardware._silent_devices() == ()


def test_the_host_offers_no_more_than_the_kernel_says() -> None:
    host = hardware.read_host()

    assert 0 < host.available_ram_bytes <= host.total_ram_bytes <= psutil.virtual_memory().total
    assert 1 <= host.physical_cores <= host.logical_cores <= len(os.sched_getaffinity(0))
    assert host.cpu_model


def test_hyper_threads_of_one_core_count_once(machine: Path) -> None:
    for cpu, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        put(machine, f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", siblings)

    assert hardware._physical_cores({0, 1, 2, 3}) == 2
    assert hardware._physical_cores({0, 2}) == 1


def test_a_process_pinned_to_one_cpu_sees_one_core() -> None:
    code = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]);"
        "from edgeapp import hardware; host = hardware.read_host();"
        "print(host.physical_cores, host.logical_cores)"
    )
    root = Path(hardware.__file__).parents[1]

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout.split() == ["1", "1"]


def test_a_cgroup_limit_bounds_total_and_available_memory(machine: Path) -> None:
    put(machine, "proc/self/cgroup", "0::/user.slice/app.scope\n")
    scope = "sys/fs/cgroup/user.slice/app.scope"
    put(machine, f"{scope}/memory.max", f"{64 << 20}\n")
    put(machine, f"{scope}/memory.current", f"{48 << 20}\n")
    put(machine, f"{scope}/memory.stat", f"anon 1\nactive_file {4 << 20}\ninactive_file {8 << 20}\n")

    host = hardware.read_host()

    assert host.total_ram_bytes == 64 << 20
    assert host.available_ram_bytes == (64 - 48 + 4 + 8) << 20


def test_the_limit_of_a_parent_cgroup_holds_too(machine: Path) -> None:
    put(machine, "proc/self/cgroup", "0::/user.slice/app.scope\n")
    put(machine, "sys/fs/cgroup/user.slice/app.scope/memory.max", "max\n")
    put(machine, "sys/fs/cgroup/user.slice/memory.max", f"{32 << 20}\n")
    put(machine, "sys/fs/cgroup/user.slice/memory.current", f"{40 << 20}\n")

    host = hardware.read_host()

    assert host.total_ram_bytes == 32 << 20
    assert host.available_ram_bytes == 0


def test_a_cpu_quota_of_one_and_a_half_cpus_grants_one_core(machine: Path) -> None:
    put(machine, "proc/self/cgroup", "0::/app.scope\n")
    put(machine, "sys/fs/cgroup/app.scope/cpu.max", "150000 100000\n")

    assert hardware.read_host().physical_cores == 1


def test_cgroup_version_1_sets_no_limit(machine: Path) -> None:
    put(machine, "proc/self/cgroup", "4:memory:/user\n2:cpu:/user\n")

    assert list(hardware._cgroup_memory()) == []


def test_a_machine_that_does_not_name_its_cpu_is_called_by_its_architecture(machine: Path) -> None:
    assert hardware._cpu_model() == os.uname().machine


def test_resident_memory_of_this_process_is_known_and_of_a_dead_one_is_0() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()

    assert hardware.process_rss_bytes(os.getpid()) > 1 << 20
    assert hardware.process_rss_bytes(child.pid) == 0

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pynvml
import pytest

from edgeapp import hardware
from edgeapp.hardware.gpus import _silent_devices
from tests.fake_nvml import GPU_IS_LOST, LIB_RM_VERSION_MISMATCH, FakeGpu, FakeNvml
from tests.hardware.kernel_files import put

if TYPE_CHECKING:
    from pathlib import Path

_GIB = 1024**3


def test_a_lost_gpu_is_a_problem_in_words_and_the_other_one_still_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy = FakeGpu(total_bytes=24 * _GIB, base_bytes=_GIB)
    FakeNvml(tmp_path, monkeypatch, gpus=[healthy, FakeGpu(fail=GPU_IS_LOST)])

    reading = hardware.read_gpus()

    assert [gpu.index for gpu in reading.gpus] == [0]
    assert reading.gpus[0].free_bytes == 23 * _GIB
    assert reading.gpus[0].compute_capability == (8, 9)
    assert reading.problems == ("GPU 1 does not answer: GPU is lost.",)


def test_a_gpu_name_cannot_carry_escape_sequences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeNvml(tmp_path, monkeypatch, gpus=[FakeGpu(name="NVIDIA\x1b]0;owned\x07 RTX 4090")])

    assert hardware.read_gpus().gpus[0].name == "NVIDIA]0;owned RTX 4090"


def test_a_driver_that_was_upgraded_under_a_running_kernel_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml = FakeNvml(tmp_path, monkeypatch)
    nvml.fail = LIB_RM_VERSION_MISMATCH
    nvml.save()

    reading = hardware.read_gpus()

    assert reading.gpus == ()
    assert reading.problems[0].startswith("The NVIDIA driver does not answer: it was updated while")


def test_this_machines_gpus_are_read_without_an_exception() -> None:
    for gpu in hardware.read_gpus().gpus:
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

    assert _silent_devices() == ()

"""How a worker's end is told, and whether memory ran out."""

from __future__ import annotations

import signal

import pytest

from edgeapp.errors import DeviceLost, EngineCrashed, EngineHung
from edgeapp.runtime.worker_exit import WorkerExit


@pytest.mark.parametrize(
    ("returncode", "stderr", "out_of_memory"),
    [
        (-signal.SIGKILL, (), True),
        (-signal.SIGABRT, ("ggml_backend_cpu: failed to allocate buffer of size 123",), True),
        (-signal.SIGABRT, ("CUDA error: out of memory", "  current device: 0", "ggml-cuda.cu:88"), True),
        (-signal.SIGABRT, ("terminate called after throwing 'std::bad_alloc'",), True),
        (1, ("MemoryError",), True),
        (-signal.SIGABRT, ("GGML_ASSERT(n > 0) failed",), False),
        (-signal.SIGSEGV, ("failed to allocate 1.00 MiB of pinned memory: no error",), False),
        (-signal.SIGSEGV, ("out of memory", *["later"] * 10), False),
        (-signal.SIGSEGV, (), False),
    ],
)
def test_running_out_of_memory_is_told_apart(
    returncode: int, stderr: tuple[str, ...], *, out_of_memory: bool
) -> None:
    error = WorkerExit(returncode=returncode, stderr_tail=stderr).error()
    assert isinstance(error, EngineCrashed)
    assert error.out_of_memory == out_of_memory
    assert error.returncode == returncode


def test_a_worker_that_we_ended_did_not_run_out_of_memory() -> None:
    ended = WorkerExit(returncode=-signal.SIGKILL, stderr_tail=(), ended_for="It was silent.", hung=True)
    assert not ended.out_of_memory
    error = ended.error()
    assert isinstance(error, EngineHung)
    assert error.message == "It was silent."


@pytest.mark.parametrize(
    ("stderr", "lost"),
    [
        (("ggml-rpc.cpp:354: Remote RPC server crashed or returned malformed response",), True),
        (("CUDA error: unspecified launch failure", "  current device: 0", "ggml-cuda.cu:88"), True),
        (("CUDA error: uncorrectable ECC error encountered",), True),
        (("CUDA error: out of memory",), False),
        (("GGML_ASSERT(n > 0) failed",), False),
    ],
)
def test_a_lost_gpu_is_told_apart(stderr: tuple[str, ...], *, lost: bool) -> None:
    error = WorkerExit(returncode=-signal.SIGABRT, stderr_tail=stderr).error()
    assert isinstance(error, DeviceLost) == lost
    assert ("GPU was lost" in error.message) == lost


def test_what_the_driver_says_of_a_lost_gpu_is_the_reason() -> None:
    ended = WorkerExit(returncode=-9, stderr_tail=(), ended_for="It has gone.", is_device_lost=True)
    assert isinstance(ended.error(), DeviceLost)
    assert ended.error().message == "The GPU was lost. It has gone."

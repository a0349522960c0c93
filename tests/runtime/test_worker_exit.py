"""How a worker's end is told, and whether memory ran out."""

from __future__ import annotations

import signal

import pytest

from edgeapp.errors import EngineCrashed, EngineHung
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

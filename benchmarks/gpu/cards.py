"""Cards of any size: a real GPU whose rest is held by another process, or the loopback device."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.fake_gpu import fake_gpu

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LOOPBACK_MIB = 24 * 1024


@dataclass(frozen=True, kw_only=True)
class Card:
    """`free_mib` is what was free when it was made."""

    free_mib: int
    server_options: tuple[str, ...] = ()
    """What tells llama-server to use it."""
    environment: dict[str, str] = field(default_factory=dict)
    """What tells edgeapp."""


@contextmanager
def cuda_card(mib: int, libraries: Path) -> Iterator[Card]:
    """Leave `mib` of the GPU free."""
    with _held(libraries, mib) as free_mib:
        yield Card(free_mib=free_mib, environment={"LLAMA_CPP_LIB_PATH": str(libraries)})


@contextmanager
def loopback_card(mib: int, libraries: Path) -> Iterator[Card]:
    """Leave `mib` of a loopback device free, in the same way."""
    with (
        fake_gpu(total_mib=_LOOPBACK_MIB) as gpu,
        _held(libraries, mib, gpu.endpoint) as free_mib,
    ):
        yield Card(
            free_mib=free_mib,
            server_options=("--rpc", gpu.endpoint),
            environment={"LLAMA_CPP_LIB_PATH": str(libraries), **gpu.environment},
        )


@contextmanager
def _held(libraries: Path, mib: int, *endpoint: str) -> Iterator[int]:
    command = [sys.executable, "-m", "benchmarks.gpu.hold", str(libraries), str(mib), *endpoint]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            said = process.stdout.readline()
            if not said:
                raise SystemExit("the card could not be made smaller")
            yield int(said)
        finally:
            process.stdin.close()
            process.wait()

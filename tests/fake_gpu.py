"""GPUs for machines that have none: RPC devices on loopback with an invented, live-editable amount of VRAM.

    with fake_gpu(total_mib=[512, 256]) as gpu:
        ... start an engine with `os.environ | gpu.environment` ...

To the engine they are real GPUs ("RPC0", "RPC1"): they can run out of memory, lose memory to other programs,
hang and die. They compute on the CPU with the CPU's own code, so results are the same bits.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MIB = 1024**2
_SERVER = Path(__file__).with_name("fake_gpu_server.py")


class FakeGpu:
    """One process with one or more devices. `device` counts from 0, as in ggml's names."""

    def __init__(self, folder: Path, totals_mib: Sequence[int], *, n_threads: int) -> None:
        self._folder = folder
        self._totals_mib = tuple(totals_mib)
        self._n_threads = n_threads
        self._port = 0
        self._set_taken([0] * len(totals_mib))
        self._process = self._start()

    @property
    def endpoint(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self._port}"

    @property
    def environment(self) -> dict[str, str]:
        """What tells an engine to use it."""
        return {"EDGEAPP_RPC_SERVERS": self.endpoint}

    @property
    def names(self) -> tuple[str, ...]:
        """ggml's names of the devices, in a process that uses no other RPC server."""
        return tuple(f"RPC{device}" for device in range(len(self._totals_mib)))

    @property
    def name(self) -> str:
        """ggml's name of the first device."""
        return self.names[0]

    @property
    def pid(self) -> int:
        return self._process.pid

    def used_bytes(self, device: int = 0) -> int:
        """What engines hold of the device now."""
        used: list[int] = json.loads((self._folder / "used.json").read_text("utf-8"))
        return used[device]

    def take(self, mib: int, device: int = 0) -> None:
        """Let other programs hold `mib` of the device; 0 lets them go."""
        self._set_taken([mib * MIB if n == device else taken for n, taken in enumerate(self._taken())])

    def set_free(self, mib: int, device: int = 0) -> None:
        """Let other programs hold so much that `mib` are free now."""
        taken = self._totals_mib[device] * MIB - self.used_bytes(device) - mib * MIB
        self._set_taken([taken if n == device else other for n, other in enumerate(self._taken())])

    def kill(self) -> None:
        """The device is gone, as after a driver's crash."""
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        """Kill it, if it still lives, and let it come back under the same endpoint, empty."""
        self.kill()
        self._process = self._start()

    def pause(self) -> None:
        """The device hangs: it takes requests and answers none."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def log(self) -> str:
        """What the server printed."""
        return (self._folder / "log.txt").read_text("utf-8", "replace")

    def _taken(self) -> list[int]:
        taken: list[int] = json.loads((self._folder / "taken.json").read_text("utf-8"))
        return taken

    def _set_taken(self, taken: list[int]) -> None:
        part = self._folder / "taken.part"
        part.write_text(json.dumps(taken), "utf-8")
        part.replace(self._folder / "taken.json")

    def _start(self) -> subprocess.Popen[bytes]:
        ready, is_ready = os.pipe()
        with socket.socket() as listener, os.fdopen(ready) as told:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self._port))
            listener.listen(16)
            self._port = int(listener.getsockname()[1])
            process = self._spawn(listener.fileno(), is_ready)
            os.close(is_ready)
            if told.read() != "ready":
                raise RuntimeError(f"The fake GPU did not start: {self.log()}")
        return process

    def _spawn(self, listener: int, is_ready: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(_SERVER), str(listener), str(is_ready), str(self._folder)]
        command += [str(self._n_threads), *(str(mib) for mib in self._totals_mib)]
        with (self._folder / "log.txt").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, pass_fds=(listener, is_ready))


@contextmanager
def fake_gpu(*, total_mib: int | Sequence[int], n_threads: int = 1) -> Iterator[FakeGpu]:
    """Start a process with a device of `total_mib`, or one for each; end it afterwards.

    Sets nothing in this process's environment: pass `FakeGpu.environment` on to the engine.
    """
    totals = [total_mib] if isinstance(total_mib, int) else list(total_mib)
    with tempfile.TemporaryDirectory(prefix="fake-gpu-") as folder:
        gpu = FakeGpu(Path(folder), totals, n_threads=n_threads)
        try:
            yield gpu
        finally:
            gpu.resume()
            gpu.kill()

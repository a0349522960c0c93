"""One engine worker process: start it, talk to it, notice its end. Knows no model and no chat.

The worker is disposable. It ends when asked, when this process dies (it asked the kernel for that), when it
is killed, and when it is busy and shows no sign of life; `on_exit` then says what happened, with the last
lines it wrote to stderr.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from edgeapp import protocol
from edgeapp.cleantext import clean_line
from edgeapp.errors import BindingMismatch
from edgeapp.protocol import PROTOCOL_VERSION, AnyEvent, Hello, Request, Shutdown
from edgeapp.runtime.activity import read_activity
from edgeapp.runtime.cleaning import cleaned
from edgeapp.runtime.exchange import Exchanges, ending
from edgeapp.runtime.watchdog import Patience, Watchdog
from edgeapp.runtime.worker_exit import WorkerExit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

MAX_LINE_BYTES = 16 * 1024**2
SHUTDOWN_TIMEOUT_S = 2.0
KILL_TIMEOUT_S = 5.0
"""After SIGKILL a process can stay for as long as a driver or a network disk holds it."""

WORKER_ENVIRONMENT = {
    # A failed assertion would otherwise fork gdb on the dying process: 1.1 s instead of 0.03 s.
    "GGML_NO_BACKTRACE": "1",
    # libgomp's default spins for milliseconds at every barrier. On a machine that is busy with anything
    # else each spin burns the time slice of the thread it waits for. A short spin, then sleep, is as fast
    # on an idle machine and many times faster on a busy one: benchmarks/busy.py.
    "GOMP_SPINCOUNT": "1000",
    # CUDA's own order is by speed, NVML's by bus: CUDA0 must be NVML's first card.
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
}

# A driver whose card has gone, or a server that hangs, can hold up whoever asks it anything.
NO_GPU = {"EDGEAPP_RPC_SERVERS": "", "CUDA_VISIBLE_DEVICES": ""}


def worker_command() -> list[str]:
    """Return the command that starts a worker; -P keeps it from importing from the user's current folder."""
    return [sys.executable, "-P", "-m", "edgeapp.engine.worker"]


class WorkerProcess:
    """A running worker. Create it with `start`; `exchanges` are the requests it works at.

    `on_event` gets the events about no request.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        *,
        on_event: Callable[[AnyEvent], None],
        on_exit: Callable[[WorkerExit], None],
        patience: Patience,
    ) -> None:
        self._process = process
        self._on_event = on_event
        self._on_exit = on_exit
        self._patience = patience
        self._stderr: deque[str] = deque(maxlen=50)
        self._ended_for, self._hung, self._is_device_lost = "", False, False
        self._clock = asyncio.get_running_loop().time
        self._watchdog = Watchdog(patience.starting, self._clock())
        self.exchanges = Exchanges(self.send)
        self.exit: WorkerExit | None = None
        self.devices: frozenset[str] = frozenset()
        """Names of the compute devices that it found."""
        self.hello: Hello | None = None
        """How it introduced itself; there after `start`."""
        self._reader = asyncio.create_task(self._read())
        self._stderr_reader = asyncio.create_task(self._read_stderr())
        self._watcher = asyncio.create_task(self._watch())

    @classmethod
    async def start(
        cls,
        *,
        on_event: Callable[[AnyEvent], None],
        on_exit: Callable[[WorkerExit], None],
        patience: Patience,
        has_gpu: bool = True,
    ) -> WorkerProcess:
        """Start a worker and wait for its greeting. Without `has_gpu` it does not even look for one.

        Raise `EngineCrashed` when it ends, `EngineHung` when it says nothing, `BindingMismatch` when it is of
        another version.
        """
        process = await asyncio.create_subprocess_exec(
            *worker_command(),
            str(os.getpid()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=MAX_LINE_BYTES,
            env=WORKER_ENVIRONMENT | os.environ | ({} if has_gpu else NO_GPU),
            start_new_session=True,  # Ctrl+C in the terminal is for the front end alone
        )
        worker = cls(process, on_event=on_event, on_exit=on_exit, patience=patience)
        try:
            await worker._greet()
        except BaseException:
            await worker.kill()
            raise
        return worker

    @property
    def pid(self) -> int:
        return self._process.pid

    def raise_if_gone(self) -> None:
        """Raise `EngineCrashed` or `EngineHung` when it has ended."""
        if self.exit is not None:
            raise self.exit.error()

    def loaded(self) -> None:
        """From now on silence is measured against the steps of a decode."""
        self._watchdog.enter(self._patience.serving, self._clock())

    def send(self, request: Request) -> None:
        """Queue a request; one to a dead worker is dropped, because its exchange is told of the death."""
        assert self._process.stdin is not None  # noqa: S101 - opened as a pipe
        if not self._process.stdin.is_closing():
            self._process.stdin.write(protocol.encode(request))

    async def shutdown(self, *, within_s: float = SHUTDOWN_TIMEOUT_S) -> None:
        """Ask it to end, then insist."""
        self._ended_for = "The engine has been closed."
        self.send(Shutdown())
        await asyncio.wait({self._reader}, timeout=within_s)
        await self.kill()

    async def kill(self, reason: str = "", *, hung: bool = False, is_device_lost: bool = False) -> None:
        """End it at once and wait until it is gone; `reason` is a sentence for whoever asks why."""
        self._ended_for, self._hung = self._ended_for or reason, hung
        self._is_device_lost = self._is_device_lost or is_device_lost
        with suppress(ProcessLookupError):
            self._process.kill()
        await asyncio.wait({self._reader}, timeout=KILL_TIMEOUT_S)
        if self.exit is None:
            self._abandon()

    def _abandon(self) -> None:
        """Count it as gone although it, or a child of it, still holds the pipes."""
        self._reader.cancel()
        self._process._transport.close()  # type: ignore[attr-defined] # noqa: SLF001 - has no public name
        self._end(-signal.SIGKILL)

    async def _greet(self) -> None:
        """Wait for `Hello`, the answer to a request 0 that is never sent."""
        with self.exchanges.open(Hello) as greeting:
            hello = await ending(greeting, Hello, lambda _status: None)
        if hello.protocol_version != PROTOCOL_VERSION:
            raise BindingMismatch(
                f"The engine speaks protocol {hello.protocol_version}, this program {PROTOCOL_VERSION}.",
                hint="Two versions of edgeapp are installed: reinstall it.",
            )
        self.devices, self.hello = frozenset(device.name for device in hello.devices), hello
        self._watchdog.enter(self._patience.loading, self._clock())

    # Watching --------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """End the worker when it is busy and hangs. Sleeps while the worker is idle."""
        while True:
            if not self.exchanges.busy.is_set():
                await self.exchanges.busy.wait()
                self._watchdog.begin(self._clock())
            await asyncio.sleep(self._watchdog.tick_s)
            problem = self._watchdog.check(self._clock(), activity=read_activity(self.pid))
            if problem and self.exchanges.busy.is_set():
                await self.kill(problem, hung=True)

    # Reading ---------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - opened as a pipe
        async for line in _lines(self._process.stdout):
            self._watchdog.heard(self._clock())
            self._receive(line)
        returncode = await self._process.wait()
        await self._stderr_reader
        self._end(returncode)

    def _receive(self, line: bytes) -> None:
        try:
            event = cleaned(protocol.decode_event(line))
        except msgspec.MsgspecError:
            self._stderr.append(f"unreadable line from the engine: {clean_line(repr(line[:500]))}")
            return
        if not self.exchanges.dispatch(event):
            self._on_event(event)

    async def _read_stderr(self) -> None:
        assert self._process.stderr is not None  # noqa: S101 - opened as a pipe
        async for line in _lines(self._process.stderr):
            self._stderr.append(line.decode("utf-8", "replace").rstrip())

    def _end(self, returncode: int) -> None:
        self.exit = WorkerExit(
            returncode=returncode,
            stderr_tail=tuple(self._stderr),
            ended_for=self._ended_for,
            hung=self._hung,
            is_device_lost=self._is_device_lost,
        )
        self._watcher.cancel()
        self._stderr_reader.cancel()
        self.exchanges.end(self.exit)
        self._on_exit(self.exit)


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield lines; of one that is too long only what does not fit is lost, and what is left is unreadable."""
    while True:
        try:
            line = await stream.readline()
        except ValueError:  # longer than MAX_LINE_BYTES
            line = b"a line that is too long"
        if not line:
            return
        yield line

"""One engine worker process: start it, talk to it, notice its end. Knows no model and no chat.

The worker is disposable. It ends when asked, when this process dies (it asked the kernel for that), and
when it is killed; `on_exit` then says what happened, with the last lines it wrote to stderr.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from edgeapp import protocol
from edgeapp.cleantext import clean_line
from edgeapp.errors import BindingMismatch, EngineCrashed
from edgeapp.protocol import PROTOCOL_VERSION, AnyEvent, Failed, Hello, Request, Shutdown

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_LINE_BYTES = 16 * 1024**2
START_TIMEOUT_S = 60.0
SHUTDOWN_TIMEOUT_S = 2.0

WORKER_ENVIRONMENT = {
    # A failed assertion would otherwise fork gdb on the dying process: 1.1 s instead of 0.03 s.
    "GGML_NO_BACKTRACE": "1",
    # libgomp's default spins for milliseconds at every barrier. On a machine that is busy with anything
    # else each spin burns the time slice of the thread it waits for. A short spin, then sleep, is as fast
    # on an idle machine and many times faster on a busy one: benchmarks/busy.py.
    "GOMP_SPINCOUNT": "1000",
}


def worker_command() -> list[str]:
    """Return the command that starts a worker; -P keeps it from importing from the user's current folder."""
    return [sys.executable, "-P", "-m", "edgeapp.engine.worker"]


@dataclass(frozen=True, kw_only=True)
class WorkerExit:
    """How a worker ended. `returncode` is negative for a signal; `ended_for` is set when we killed it."""

    returncode: int
    stderr_tail: tuple[str, ...]
    ended_for: str = ""

    @property
    def reason(self) -> str:
        if self.ended_for:
            return self.ended_for
        last_words = f": {_without_folders(self.stderr_tail[-1])}" if self.stderr_tail else ""
        if self.returncode >= 0:
            return f"The engine ended with status {self.returncode}{last_words}."
        if self.returncode == -signal.SIGKILL:
            return "The engine was killed (SIGKILL)."
        names = {member.value: member.name for member in signal.Signals}
        return f"The engine crashed ({names.get(-self.returncode, -self.returncode)}){last_words}."

    @property
    def hint(self) -> str:
        if self.returncode == -signal.SIGKILL and not self.ended_for:
            return "The system kills the largest program when memory runs out; a smaller --ctx needs less."
        return "If this repeats, `edgeapp doctor` checks the engine."


def _without_folders(line: str) -> str:
    """Shorten the paths in a failed assertion, which are those of the machine that built the engine."""
    return re.sub(r"(?:/[^/\s]+)+/([^/\s]+:\d+)", r"\1", clean_line(line)).rstrip(".")


class WorkerProcess:
    """A running worker. Create it with `start`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        on_event: Callable[[AnyEvent], None],
        on_exit: Callable[[WorkerExit], None],
    ) -> None:
        self._process = process
        self._on_event = on_event
        self._on_exit = on_exit
        self._stderr: deque[str] = deque(maxlen=50)
        self._ended_for = ""
        self.exit: WorkerExit | None = None
        self._hello: asyncio.Future[Hello] = asyncio.get_running_loop().create_future()
        self.last_event_s = asyncio.get_running_loop().time()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls, on_event: Callable[[AnyEvent], None], on_exit: Callable[[WorkerExit], None]
    ) -> WorkerProcess:
        """Start a worker and wait for its greeting.

        Raise `EngineCrashed` when it ends or says nothing, `BindingMismatch` when it is of another version.
        """
        process = await asyncio.create_subprocess_exec(
            *worker_command(),
            str(os.getpid()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=MAX_LINE_BYTES,
            env=WORKER_ENVIRONMENT | os.environ,
            start_new_session=True,  # Ctrl+C in the terminal is for the front end alone
        )
        worker = cls(process, on_event, on_exit)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                hello = await asyncio.shield(worker._hello)
        except TimeoutError:
            await worker.kill()
            raise EngineCrashed(f"The engine did not start within {START_TIMEOUT_S:g} s.") from None
        except BaseException:
            await worker.kill()
            raise
        if worker.exit is not None:
            raise EngineCrashed(worker.exit.reason, hint=worker.exit.hint, returncode=worker.exit.returncode)
        if hello.protocol_version != PROTOCOL_VERSION:
            await worker.kill()
            raise BindingMismatch(
                f"The engine speaks protocol {hello.protocol_version}, this program {PROTOCOL_VERSION}.",
                hint="Two versions of edgeapp are installed: reinstall it.",
            )
        return worker

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def hello(self) -> Hello:
        return self._hello.result()

    def send(self, request: Request) -> None:
        """Queue a request; one to a dead worker is dropped, because `on_exit` tells of the death."""
        assert self._process.stdin is not None  # noqa: S101 - opened as a pipe
        if not self._process.stdin.is_closing():
            self._process.stdin.write(protocol.encode(request))

    async def shutdown(self) -> None:
        """Ask it to end, then insist."""
        self.send(Shutdown(id=0))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SHUTDOWN_TIMEOUT_S):
                await asyncio.shield(self._reader)
        await self.kill()

    async def kill(self, reason: str = "") -> None:
        """End it at once and wait until it is gone; `reason` is a sentence for whoever asks why."""
        self._ended_for = reason
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._reader

    async def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - opened as a pipe
        stderr = asyncio.create_task(self._read_stderr())
        async for line in self._process.stdout:
            self.last_event_s = asyncio.get_running_loop().time()
            self._receive(line)
        returncode = await self._process.wait()
        await stderr
        stderr_tail = tuple(self._stderr)
        worker_exit = WorkerExit(returncode=returncode, stderr_tail=stderr_tail, ended_for=self._ended_for)
        self.exit = worker_exit
        if not self._hello.done():
            self._hello.set_exception(EngineCrashed(worker_exit.reason, hint=worker_exit.hint))
            self._hello.exception()  # nobody may be waiting any more
        self._on_exit(worker_exit)

    def _receive(self, line: bytes) -> None:
        try:
            event = protocol.decode_event(line)
        except msgspec.MsgspecError:
            self._stderr.append(f"unreadable line from the engine: {clean_line(repr(line))}")
            return
        match event:
            case Hello() if not self._hello.done():
                self._hello.set_result(event)
            case Failed(id=0, code=BindingMismatch.code) if not self._hello.done():
                self._hello.set_exception(BindingMismatch(event.message, hint=event.hint))
            case _:
                self._on_event(event)

    async def _read_stderr(self) -> None:
        assert self._process.stderr is not None  # noqa: S101 - opened as a pipe
        async for line in self._process.stderr:
            self._stderr.append(line.decode("utf-8", "replace").rstrip())

"""How a worker ended, in words and as an error. Pure."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass

from edgeapp.cleantext import clean_line
from edgeapp.errors import DeviceLost, EngineCrashed, EngineError, EngineHung

_OUT_OF_MEMORY = re.compile(
    r"out of memory|(failed|unable) to allocate|cannot allocate memory|bad_alloc|MemoryError|OutOf\w*Memory",
    re.IGNORECASE,
)
# ggml-rpc.cpp, RPC_STATUS_ASSERT; the texts of cudaGetErrorString when a card has gone.
_DEVICE_LOST = re.compile(
    r"Remote RPC server crashed|fallen off the bus|GPU is lost|uncorrectable ECC error"
    r"|device\(s\) is/are busy or unavailable|no CUDA-capable device|unspecified launch failure",
    re.IGNORECASE,
)
_LAST_LINES = 10
"""Only what was written shortly before the end explains it."""


@dataclass(frozen=True, kw_only=True)
class WorkerExit:
    """`returncode` is negative for a signal; `ended_for` is a sentence when we ended it ourselves."""

    returncode: int
    stderr_tail: tuple[str, ...]
    ended_for: str = ""
    hung: bool = False
    is_device_lost: bool = False
    """We ended it because the system says that its GPU has gone."""

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
        if self.device_lost:
            return "Your chat is kept. See what `edgeapp doctor` says of the GPU."
        if self.hung:
            return "Send the message once more."
        if self.returncode == -signal.SIGKILL and not self.ended_for:
            return "The system kills the largest program when memory runs out; a smaller --ctx needs less."
        return "If this repeats, `edgeapp doctor` checks the engine."

    @property
    def out_of_memory(self) -> bool:
        """Tell whether memory ran out, as far as one can see: the system kills without a word."""
        if self.ended_for:
            return False
        if self.returncode == -signal.SIGKILL:
            return True
        # llama.cpp does without pinned memory.
        return any(
            _OUT_OF_MEMORY.search(line) and "pinned" not in line for line in self.stderr_tail[-_LAST_LINES:]
        )

    @property
    def device_lost(self) -> bool:
        """Tell whether the GPU has gone, as far as the last words say."""
        return self.is_device_lost or (
            not self.ended_for and any(_DEVICE_LOST.search(line) for line in self.stderr_tail[-_LAST_LINES:])
        )

    def error(self) -> EngineError:
        """Return `EngineHung` or `EngineCrashed` for whoever waited for an answer."""
        if self.device_lost:
            return DeviceLost(f"The GPU was lost. {self.reason}", hint=self.hint, returncode=self.returncode)
        if self.hung:
            return EngineHung(self.reason, hint=self.hint)
        return EngineCrashed(
            self.reason, hint=self.hint, returncode=self.returncode, out_of_memory=self.out_of_memory
        )


def _without_folders(line: str) -> str:
    """Shorten the paths in a failed assertion, which are those of the machine that built the engine."""
    return re.sub(r"(?:/[^/\s]+)+/([^/\s]+:\d+)", r"\1", clean_line(line)).rstrip(".")

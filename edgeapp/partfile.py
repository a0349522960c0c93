"""A file that arrives in pieces, possibly over several runs, and the progress made. Knows no network."""

from __future__ import annotations

import fcntl
import io
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgeapp.errors import DownloadError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class DownloadProgress:
    """How far a download is. While downloading over all parts of the model, while verifying over one file."""

    phase: Literal["downloading", "verifying"]
    file: str
    done_bytes: int
    total_bytes: int
    rate_bps: float
    """Bytes per second transferred since the start, not counting what an earlier run left."""


class ProgressMeter:
    """Turns bytes that arrive into `DownloadProgress` for a listener."""

    def __init__(self, *, total_bytes: int, listener: Callable[[DownloadProgress], None]) -> None:
        self._total_bytes = total_bytes
        self._listener = listener
        self._started_s = time.monotonic()
        self._transferred_bytes = 0
        self._finished_bytes = 0

    def received(self, n_bytes: int, *, file: str, file_bytes: int) -> None:
        """Count `n_bytes` new bytes of `file`, which now has `file_bytes`."""
        self._transferred_bytes += n_bytes
        elapsed_s = max(time.monotonic() - self._started_s, 1e-6)
        self._listener(
            DownloadProgress(
                phase="downloading",
                file=file,
                done_bytes=self._finished_bytes + file_bytes,
                total_bytes=self._total_bytes,
                rate_bps=self._transferred_bytes / elapsed_s,
            )
        )

    def finished(self, file_bytes: int) -> None:
        """Count a whole file as done."""
        self._finished_bytes += file_bytes

    def verified(self, done_bytes: int, *, file: str, file_bytes: int) -> None:
        """Tell that `done_bytes` of a file have been hashed."""
        self._listener(
            DownloadProgress(
                phase="verifying", file=file, done_bytes=done_bytes, total_bytes=file_bytes, rate_bps=0.0
            )
        )


class PartFile(io.FileIO):
    """`path` opened to be continued at its end, for one process at a time; reports what is written.

    Raise `DownloadError` when another process has it open.
    """

    def __init__(self, path: Path, *, name: str, meter: ProgressMeter) -> None:
        super().__init__(path, "a+b")
        self._meter = meter
        self._shown_name = name
        try:
            fcntl.flock(self, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as problem:
            self.close()
            raise DownloadError(
                f"{name} is being downloaded by another process.", hint="Wait for it, or end it."
            ) from problem

    def write(self, data: bytes) -> int:  # type: ignore[override] # only ever given bytes
        """Append all of `data`; a raw write may be cut short by a signal."""
        written = 0
        while written < len(data):
            written += super().write(memoryview(data)[written:]) or 0
        self._meter.received(written, file=self._shown_name, file_bytes=self.tell())
        return written

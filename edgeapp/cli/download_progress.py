"""Draw a download: a bar on a terminal, a line for every tenth otherwise. Always on stderr."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edgeapp.partfile import DownloadProgress

    Listener = Callable[[DownloadProgress], None]

_BAR_CHARS = 30
_WORDS = {"downloading": "Downloading", "verifying": "Verifying"}


@contextmanager
def shown() -> Iterator[Listener]:
    """Yield the listener that draws; leaves the cursor on a fresh line."""
    if not sys.stderr.isatty():
        yield _Lines().tell
        return
    bar = _Bar()
    try:
        yield bar.tell
    finally:
        bar.close()


def describe_bytes(n_bytes: int) -> str:
    """Return a size as people read it: GB as on the hub, MB below one of them."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 10**9 else f"{n_bytes / 1e6:.1f} MB"


class _Lines:
    """One line whenever another tenth of a phase is done."""

    def __init__(self) -> None:
        self._told: set[tuple[str, str, int]] = set()

    def tell(self, progress: DownloadProgress) -> None:
        tenth = 10 * progress.done_bytes // max(progress.total_bytes, 1)
        # Downloading counts over all files of a model, verifying over one.
        step = (progress.phase, progress.file if progress.phase == "verifying" else "", tenth)
        if step not in self._told:
            self._told.add(step)
            click.echo(f"{_WORDS[progress.phase]} {progress.file}: {_numbers(progress)}", err=True)


class _Bar:
    """One line, redrawn whenever its text changes."""

    def __init__(self) -> None:
        self._line = ""

    def tell(self, progress: DownloadProgress) -> None:
        filled = _BAR_CHARS * progress.done_bytes // max(progress.total_bytes, 1)
        bar = "█" * filled + "░" * (_BAR_CHARS - filled)
        line = f"{_WORDS[progress.phase]:<11} {bar} {_numbers(progress)}"
        if line != self._line:
            self._line = line
            click.echo(f"\r\x1b[2K{line}", nl=False, err=True)

    def close(self) -> None:
        if self._line:
            click.echo(err=True)


def _numbers(progress: DownloadProgress) -> str:
    percent = 100 * progress.done_bytes // max(progress.total_bytes, 1)
    sizes = f"{describe_bytes(progress.done_bytes)} of {describe_bytes(progress.total_bytes)}"
    if progress.rate_bps <= 0:
        return f"{percent} %, {sizes}"
    left_s = round((progress.total_bytes - progress.done_bytes) / progress.rate_bps)
    rate = f"{progress.rate_bps / 1e6:.1f} MB/s"
    return f"{percent} %, {sizes}, {rate}, {left_s // 60}:{left_s % 60:02} left"

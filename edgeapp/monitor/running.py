"""The engines of this user that run now: one small file for each, written by its front end, read by others.

A file is replaced at most once a second and removed at the end. Those of front ends that were killed are
recognised by the identity of their process, ignored, and removed by whoever reads. Publishing never fails:
a chat must not end because a disk is full.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from edgeapp import paths
from edgeapp.cleantext import clean_line
from edgeapp.hardware import boot_identity, process_identity
from edgeapp.monitor.placed import placed_experts
from edgeapp.monitor.rate import LiveRate
from edgeapp.monitor.status import STATUS_VERSION, EngineStatus, after
from edgeapp.protocol import Delta

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgeapp.monitor.status import EngineState
    from edgeapp.placement.plan import PlacementPlan

PERIOD_S = 1.0
_MAX_FILE_BYTES = 256 << 10
_STALE_AFTER_S = 24 * 3600
"""When the home folder is shared, files of other machines stay so long before they count as forgotten."""


class RunningEngine:
    """Publishes the state of one engine while its front end runs, whose workers are its child processes.

    Writes from the event loop that runs when something changes.
    """

    def __init__(self, *, front_end: str, model: str) -> None:
        pid = os.getpid()
        self.status = EngineStatus(
            pid=pid,
            identity=process_identity(pid),
            front_end=front_end,
            model=model,
            started_s=time.time(),
        )
        self._path = paths.runtime_dir() / f"{pid}.{id(self):x}.json"
        self._rate = LiveRate(interval_s=PERIOD_S / 2)
        self._written: EngineStatus | None = None
        self._written_s = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    def observe(self, event: object) -> None:
        """Take in an event of the engine or of a generation; others are ignored."""
        status = after(self.status, event)
        if isinstance(event, Delta):
            decode_tps = self._rate.observe(n_tokens=event.n_tokens, now_s=time.monotonic())
            status = msgspec.structs.replace(status, decode_tps=decode_tps or status.decode_tps)
        self._show(status)

    def describe(self, plan: PlacementPlan, expert_layers: Sequence[int]) -> None:
        """Say how the engine is placed. `expert_layers` are the layers that have routed experts."""
        self._show(
            msgspec.structs.replace(
                self.status,
                plan=plan.reason,
                device=plan.device,
                expert_places=placed_experts(plan, expert_layers),
            )
        )

    def set_state(self, state: EngineState) -> None:
        """Say that the engine is loading again, was released, or went down; it holds no buffers then."""
        self._show(msgspec.structs.replace(self.status, state=state, buffers=(), devices=(), decode_tps=0.0))

    def close(self) -> None:
        """Remove the file. Safe to call twice."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _show(self, status: EngineStatus) -> None:
        self.status = status
        if self._is_closed or self._timer is not None or status == self._written:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # known before the front end runs; written with the next change
            return
        self._timer = loop.call_at(max(loop.time(), self._written_s + PERIOD_S), self._write)

    def _write(self) -> None:
        self._timer = None
        self._written_s = asyncio.get_running_loop().time()
        self._written = self.status
        part = self._path.with_suffix(".part")
        with suppress(OSError):
            paths.make_private(self._path.parent)
            part.write_bytes(msgspec.json.encode(self.status))
            part.replace(self._path)


def read_running() -> tuple[EngineStatus, ...]:
    """Return the engines that run now, the oldest first. Texts are cleaned."""
    try:
        files = sorted(paths.runtime_dir().glob("*.json"))
    except OSError:
        return ()
    running = (_read(file) for file in files)
    return tuple(sorted(filter(None, running), key=lambda status: status.started_s))


def _read(file: Path) -> EngineStatus | None:
    try:
        with file.open("rb") as opened:
            status = msgspec.json.decode(opened.read(_MAX_FILE_BYTES), type=EngineStatus)
    except OSError:
        return None
    except (ValueError, msgspec.MsgspecError):
        _remove_when_stale(file, boot="")
        return None
    if not status.identity or process_identity(status.pid) != status.identity:
        _remove_when_stale(file, boot=status.identity.partition(":")[0])
        return None
    return _cleaned(status) if status.version == STATUS_VERSION else None


def _remove_when_stale(file: Path, *, boot: str) -> None:
    with suppress(OSError):
        is_old = time.time() - file.stat().st_mtime > _STALE_AFTER_S
        if is_old or (boot and boot == boot_identity()):
            file.unlink(missing_ok=True)


def _cleaned(status: EngineStatus) -> EngineStatus:
    return msgspec.structs.replace(
        status,
        front_end=clean_line(status.front_end, max_chars=20),
        model=clean_line(status.model),
        plan=clean_line(status.plan, max_chars=500),
        device=clean_line(status.device),
    )

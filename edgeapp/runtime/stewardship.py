"""What to do when other programs need memory, and when they no longer do. Pure; has no clock.

First what is only kept for speed goes, then the model is placed into less memory. When the alarm is over for
long enough it gets its place back, and each time that turns out to have been too early the wait is doubled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from edgeapp.monitor.pressure import CALM, Pressure, Watermarks, observe

Action = Literal["none", "drop caches", "shrink", "grow"]


@dataclass(frozen=True, kw_only=True)
class Habits:
    """Times in seconds."""

    after_drop_s: float = 5.0
    """How long dropped caches have to bring relief."""
    between_changes_s: float = 30.0
    """A change costs the user a pause, so the next one does not follow at once."""
    grow_after_s: float = 30.0
    """How long it must have been calm before the model gets its place back."""
    too_early_s: float = 600.0
    """Memory that runs short again so soon after growing means that it was too early."""
    most_grow_after_s: float = 1800.0


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What has been seen and done so far."""

    pressure: Pressure = CALM
    dropped_s: float | None = None
    """When caches were dropped in this alarm."""
    changed_s: float = float("-inf")
    """When the model was last placed anew, or that was tried."""
    grown_s: float = float("-inf")
    is_shrunk: bool = False
    grow_after_s: float | None = None
    """None is the habit."""


def decide(
    before: Standing,
    *,
    free_bytes: int,
    now_s: float,
    marks: Watermarks,
    habits: Habits,
    may_shrink: bool = True,
) -> tuple[Standing, Action]:
    """Return what to do now, and the new standing, in which it counts as done.

    `may_shrink` is False where a smaller place would free nothing that is short.
    """
    pressure, _event = observe(before.pressure, free_bytes, now_s, marks)
    now = replace(before, pressure=pressure)
    if pressure.level == "calm":
        return _calm(replace(now, dropped_s=None), now_s, habits)
    if free_bytes >= marks.low_bytes:
        return now, "none"
    if now.dropped_s is None and pressure.level == "low":
        return replace(now, dropped_s=now_s), "drop caches"
    is_urgent = pressure.level == "critical" or now_s - (now.dropped_s or now_s) >= habits.after_drop_s
    if may_shrink and is_urgent and now_s - now.changed_s >= habits.between_changes_s:
        return _shrunk(now, now_s, habits), "shrink"
    if now.dropped_s is None:
        return replace(now, dropped_s=now_s), "drop caches"
    return now, "none"


def _calm(now: Standing, now_s: float, habits: Habits) -> tuple[Standing, Action]:
    wait_s = now.grow_after_s or habits.grow_after_s
    calm_s = now_s - max(now.pressure.changed_s, now.changed_s)
    if not now.is_shrunk or calm_s < wait_s:
        return now, "none"
    return replace(now, is_shrunk=False, grown_s=now_s, changed_s=now_s), "grow"


def _shrunk(now: Standing, now_s: float, habits: Habits) -> Standing:
    wait_s = now.grow_after_s or habits.grow_after_s
    if now_s - now.grown_s < habits.too_early_s:
        wait_s = min(2 * wait_s, habits.most_grow_after_s)
    return replace(now, is_shrunk=True, changed_s=now_s, grow_after_s=wait_s)

"""When memory runs short and when that is over: watermarks with hysteresis and patience. Pure; has no clock.

Memory use is restless, and every change of plan costs the user seconds. So a level has to be sustained
before it counts, memory has to rise clearly above the alarm before the alarm is over, and after an alarm
some time has to pass in any case.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

PressureLevel = Literal["calm", "low", "critical"]
PressureEvent = Literal["low", "critical", "relieved"]

_RANK: dict[PressureLevel, int] = {"calm": 0, "low": 1, "critical": 2}


@dataclass(frozen=True, kw_only=True)
class Watermarks:
    """Free memory in bytes, `critical_bytes` <= `low_bytes` <= `relieved_bytes`; times in seconds."""

    critical_bytes: int
    low_bytes: int
    relieved_bytes: int
    critical_after_s: float = 1.0
    """How long memory is critical before that counts."""
    low_after_s: float = 3.0
    relieved_after_s: float = 20.0
    dwell_s: float = 30.0
    """After an alarm: at least so long until it can be over. After relief: so long until memory is low again;
    a critical state is told nevertheless."""

    def __post_init__(self) -> None:
        if not 0 <= self.critical_bytes <= self.low_bytes <= self.relieved_bytes:
            raise ValueError("critical_bytes <= low_bytes <= relieved_bytes")


@dataclass(frozen=True, kw_only=True)
class Pressure:
    """What has been told so far, and what would be told next if it lasts."""

    level: PressureLevel = "calm"
    changed_s: float = float("-inf")
    pending: PressureLevel = "calm"
    """Where memory is heading; equal to `level` when nothing changes."""
    pending_since_s: float = 0.0


CALM = Pressure()


def watermarks(total_bytes: int, reserve_bytes: int) -> Watermarks:
    """Return marks for a device: low is half the reserve that a plan leaves free, critical a sixth of it.

    Free memory has to come back above the reserve, plus 2 % of the device, before a bigger plan makes sense.
    """
    return Watermarks(
        critical_bytes=reserve_bytes // 6,
        low_bytes=reserve_bytes // 2,
        relieved_bytes=reserve_bytes + total_bytes // 50,
    )


def observe(
    before: Pressure, free_bytes: int, now_s: float, marks: Watermarks
) -> tuple[Pressure, PressureEvent | None]:
    """Return the new state, and what happened if something did.

    "critical" may follow "low" or come at once. The only way down is "relieved", to calm.
    """
    heading = _heading(before.level, free_bytes, marks)
    if heading == before.level:
        return replace(before, pending=heading, pending_since_s=now_s), None
    since_s = before.pending_since_s if _still_heads(before.pending, heading) else now_s
    if not _is_due(before, heading, since_s, now_s, marks):
        return replace(before, pending=heading, pending_since_s=since_s), None
    after = Pressure(level=heading, changed_s=now_s, pending=heading, pending_since_s=now_s)
    return after, "relieved" if heading == "calm" else heading


def _heading(level: PressureLevel, free_bytes: int, marks: Watermarks) -> PressureLevel:
    """Return the level that `free_bytes` leads to; between the marks things stay as they are."""
    if free_bytes < marks.critical_bytes:
        return "critical"
    if free_bytes >= marks.relieved_bytes:
        return "calm"
    if free_bytes < marks.low_bytes and level == "calm":
        return "low"
    return level


def _still_heads(pending: PressureLevel, heading: PressureLevel) -> bool:
    """Memory that was critical has been low as well; a wait for "low" says nothing about "critical"."""
    return pending == heading or (heading == "low" and pending == "critical")


def _is_due(
    before: Pressure, heading: PressureLevel, since_s: float, now_s: float, marks: Watermarks
) -> bool:
    patience_s = {
        "critical": marks.critical_after_s,
        "low": marks.low_after_s,
        "calm": marks.relieved_after_s,
    }[heading]
    if now_s - since_s < patience_s:
        return False
    return heading == "critical" or now_s - before.changed_s >= marks.dwell_s

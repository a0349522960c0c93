"""Decide when a silent worker counts as hung. Knows no process and no clock: it is told the time.

A worker that has something to do and says nothing may be computing, or may never speak again. A sign of work
(processor time, page faults: `edgeapp.runtime.activity`) tells them apart. One that stands still is given up
early, one that works is given the time that the longest step of a large model can take. How long a standstill
may last is learned from the silences before, within limits.
"""

from __future__ import annotations

from dataclasses import dataclass

STANDSTILL_FACTOR = 10
"""How many times the longest silence so far a standstill may last."""
TICKS = 10
"""How often silence is looked at within the shortest limit."""
MAX_TICK_S = 1.0


@dataclass(frozen=True, kw_only=True)
class SilenceLimits:
    """How long a busy worker may stand still, from `least_s` to `most_s`, and be silent at all, `most_s`."""

    least_s: float
    most_s: float


@dataclass(frozen=True, kw_only=True)
class Patience:
    """The limits of each phase of a worker's life."""

    starting: SilenceLimits = SilenceLimits(least_s=30.0, most_s=60.0)
    loading: SilenceLimits = SilenceLimits(least_s=60.0, most_s=1800.0)
    """A warm-up reads the whole model: 100 GB from a slow disk take half an hour."""
    serving: SilenceLimits = SilenceLimits(least_s=30.0, most_s=180.0)
    """A micro-batch of a large model can take a minute."""


def patience(hang_timeout_s: float) -> Patience:
    """Return the usual limits, none longer than `hang_timeout_s`.

    A worker that starts or loads and visibly works is not hurried: how long that takes depends on the disk.
    """
    usual = Patience()
    return Patience(
        starting=_capped(usual.starting, hang_timeout_s, most_s=usual.starting.most_s),
        loading=_capped(usual.loading, hang_timeout_s, most_s=usual.loading.most_s),
        serving=_capped(usual.serving, hang_timeout_s, most_s=hang_timeout_s),
    )


def _capped(limits: SilenceLimits, cap_s: float, *, most_s: float) -> SilenceLimits:
    return SilenceLimits(least_s=min(limits.least_s, cap_s), most_s=most_s)


class Watchdog:
    """Follows one worker. All times are seconds of one clock that only goes forward."""

    def __init__(self, limits: SilenceLimits, now_s: float) -> None:
        self.enter(limits, now_s)

    def enter(self, limits: SilenceLimits, now_s: float) -> None:
        """Begin a phase with limits of its own; what was learned in another does not count."""
        self._limits = limits
        self._longest_s: float | None = None
        self.begin(now_s)

    def begin(self, now_s: float) -> None:
        """The worker was idle and now has something to do."""
        self._heard_s = self._moved_s = self._checked_s = now_s
        self._activity: int | None = None

    def heard(self, now_s: float) -> None:
        """The worker said something."""
        self._longest_s = max(self._longest_s or 0.0, now_s - self._heard_s)
        self._heard_s = now_s

    @property
    def tick_s(self) -> float:
        """How long to wait between two `check`s."""
        return min(MAX_TICK_S, self._limits.least_s / TICKS)

    @property
    def standstill_s(self) -> float:
        """How long the worker may be silent without a sign of work."""
        learned_s = STANDSTILL_FACTOR * (self._longest_s or 0.0)
        return min(max(learned_s, self._limits.least_s), self._limits.most_s)

    def silent_s(self, now_s: float) -> float:
        return now_s - self._heard_s

    def check(self, now_s: float, *, activity: int | None) -> str:
        """Return why the worker counts as hung, as a sentence, or "" while it does not.

        `activity` is any number that changes while the worker works; None when that cannot be seen.
        """
        self._skip_own_absence(now_s)
        if activity is None or activity != self._activity:
            self._moved_s = now_s
        self._activity = activity
        silent_s, still_s = self.silent_s(now_s), now_s - max(self._heard_s, self._moved_s)
        if still_s >= self.standstill_s:
            return f"The engine was silent and did nothing for {still_s:.0f} s, and has been ended."
        if silent_s >= self._limits.most_s:
            return f"The engine was silent for {silent_s:.0f} s and has been ended."
        return ""

    def _skip_own_absence(self, now_s: float) -> None:
        """Leave out the time in which this process itself was stopped and could not listen."""
        absent_s = now_s - self._checked_s - self.tick_s
        if absent_s > self.tick_s:
            self._heard_s += absent_s
            self._moved_s += absent_s
        self._checked_s = now_s

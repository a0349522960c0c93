"""When a worker that died is started again, and when its model is left alone. Pure: it is told the time."""

from __future__ import annotations

from dataclasses import dataclass

from edgeapp.errors import EngineQuarantined


@dataclass(frozen=True, kw_only=True)
class RestartPolicy:
    """`backoff_s` are the pauses after the first, second, … death in a row; the last one repeats.

    `max_deaths` within `window_s` put the model into quarantine for `quarantine_s`.
    """

    backoff_s: tuple[float, ...] = (0.0, 0.5, 2.0, 8.0, 30.0)
    max_deaths: int = 3
    window_s: float = 300.0
    quarantine_s: float = 300.0


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """The model is not started before `until_s`. `reason` is a sentence."""

    reason: str
    n_deaths: int
    window_s: float
    until_s: float

    def error(self, now_s: float) -> EngineQuarantined:
        wait_min = max(1, round((self.until_s - now_s) / 60))
        return EngineQuarantined(
            f"The engine died {self.n_deaths} times within {_minutes(self.window_s)}, so it is not started"
            f" again for now. The last time: {self.reason}",
            hint=f"It is tried again in {_minutes(60 * wait_min)}, and at once when edgeapp is started again."
            " `edgeapp doctor` checks the engine.",
        )


class Deaths:
    """The deaths of the workers of one model. All times are seconds of one clock."""

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._died_s: list[float] = []
        self._in_a_row = 0
        self._quarantined: Quarantined | None = None

    def add(self, now_s: float, reason: str) -> None:
        self._in_a_row += 1
        self._died_s = [died_s for died_s in self._died_s if now_s - died_s < self._policy.window_s]
        self._died_s.append(now_s)
        if len(self._died_s) >= self._policy.max_deaths:
            self._quarantined = Quarantined(
                reason=reason,
                n_deaths=len(self._died_s),
                window_s=self._policy.window_s,
                until_s=now_s + self._policy.quarantine_s,
            )

    def answered(self) -> None:
        """A worker has done what it was asked for: the next death is again the first in a row."""
        self._in_a_row = 0

    def forgive(self) -> None:
        """Forget all deaths, and end a quarantine."""
        self._in_a_row = 0
        self._died_s.clear()
        self._quarantined = None

    @property
    def pause_s(self) -> float:
        """How long to wait before the next start."""
        if not self._in_a_row:
            return 0.0
        return self._policy.backoff_s[min(self._in_a_row, len(self._policy.backoff_s)) - 1]

    def quarantined(self, now_s: float) -> Quarantined | None:
        """Return the quarantine that lasts at `now_s`; one that is over is forgotten with its deaths."""
        if self._quarantined is not None and now_s >= self._quarantined.until_s:
            self.forgive()
        return self._quarantined


def _minutes(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes} minutes" if minutes > 1 else "a minute"

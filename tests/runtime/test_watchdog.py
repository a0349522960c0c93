"""When a silent worker counts as hung: pure time, no process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeapp.runtime.activity import read_activity
from edgeapp.runtime.watchdog import Patience, SilenceLimits, Watchdog, patience

SERVING = Patience().serving


def hung_after(watchdog: Watchdog, now_s: float, *, works: bool, seen: bool = True) -> float:
    """Return after how many seconds of silence from `now_s` on the worker counts as hung."""
    start_s = now_s
    for tick in range(10_000):
        now_s += watchdog.tick_s
        activity = (tick if works else 0) if seen else None
        if watchdog.check(now_s, activity=activity):
            return now_s - start_s
    raise AssertionError("never")


def test_a_busy_worker_that_stands_still_is_hung_after_half_a_minute() -> None:
    # The first look at its activity has nothing to compare with.
    assert hung_after(Watchdog(SERVING, 0.0), 0.0, works=False) == pytest.approx(31, abs=1)


def test_a_worker_that_computes_is_given_three_minutes() -> None:
    assert hung_after(Watchdog(SERVING, 0.0), 0.0, works=True) == pytest.approx(180, abs=1)


def test_where_work_cannot_be_seen_it_is_given_three_minutes_too() -> None:
    assert hung_after(Watchdog(SERVING, 0.0), 0.0, works=True, seen=False) == pytest.approx(180, abs=1)


def test_a_worker_that_was_silent_for_long_before_may_stand_still_for_longer() -> None:
    watchdog = Watchdog(SERVING, 0.0)
    watchdog.heard(8.0)
    watchdog.heard(8.1)
    assert watchdog.standstill_s == 80
    watchdog.heard(68.1)
    assert watchdog.standstill_s == 180


def test_what_was_learned_while_loading_does_not_count_for_the_decode() -> None:
    watchdog = Watchdog(Patience().loading, 0.0)
    watchdog.heard(50.0)
    assert watchdog.standstill_s == 500
    watchdog.enter(SERVING, 51.0)
    assert watchdog.standstill_s == 30


def test_idle_time_is_not_silence() -> None:
    watchdog = Watchdog(SERVING, 0.0)
    watchdog.heard(1.0)
    watchdog.begin(1000.0)
    assert not watchdog.check(1001.0, activity=1)
    assert watchdog.standstill_s == 30
    assert hung_after(watchdog, 1001.0, works=False) == pytest.approx(29, abs=2)


def test_time_in_which_we_were_stopped_ourselves_is_not_held_against_the_worker() -> None:
    watchdog = Watchdog(SERVING, 0.0)
    assert not watchdog.check(1.0, activity=1)
    assert not watchdog.check(5000.0, activity=1)
    assert hung_after(watchdog, 5000.0, works=False) == pytest.approx(29, abs=2)


def test_a_short_limit_is_looked_at_often() -> None:
    assert Watchdog(patience(1.0).serving, 0.0).tick_s == pytest.approx(0.1)
    assert Watchdog(SERVING, 0.0).tick_s == 1.0


def test_a_worker_that_loads_and_works_is_not_hurried_by_a_short_limit() -> None:
    short = patience(1.0)
    assert short.serving == SilenceLimits(least_s=1.0, most_s=1.0)
    assert short.loading == SilenceLimits(least_s=1.0, most_s=1800.0)
    assert patience(180.0) == Patience()


@given(st.lists(st.floats(min_value=0, max_value=29), max_size=50))
def test_no_worker_that_speaks_within_its_least_limit_is_hung(silences_s: list[float]) -> None:
    watchdog, now_s = Watchdog(SERVING, 0.0), 0.0
    for silence_s in silences_s:
        end_s = now_s + silence_s
        while now_s + watchdog.tick_s < end_s:
            now_s += watchdog.tick_s
            assert not watchdog.check(now_s, activity=0)
        watchdog.heard(end_s)
        assert 30 <= watchdog.standstill_s <= 180


def test_a_process_that_computes_shows_it_and_a_stopped_one_does_not() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            before = read_activity(busy.pid)
            deadline_s = time.monotonic() + 20
            while read_activity(busy.pid) == before and time.monotonic() < deadline_s:
                time.sleep(0.01)
            assert read_activity(busy.pid) != before
            os.kill(busy.pid, signal.SIGSTOP)
            time.sleep(0.05)
            stopped = read_activity(busy.pid)
            time.sleep(0.1)
            assert read_activity(busy.pid) == stopped is not None
        finally:
            busy.kill()
    assert read_activity(busy.pid) is None

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeapp.monitor.pressure import CALM, Watermarks, observe, watermarks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgeapp.monitor.pressure import PressureEvent

_MARKS = Watermarks(critical_bytes=100, low_bytes=300, relieved_bytes=600)
_EVERY_LEVEL = (50, 200, 450, 700)


def events(
    free: Iterable[tuple[float, int]], marks: Watermarks = _MARKS
) -> list[tuple[float, PressureEvent]]:
    """Return what happened when, for pairs of time and free bytes."""
    told, pressure = [], CALM
    for now_s, free_bytes in free:
        pressure, event = observe(pressure, free_bytes, now_s, marks)
        if event is not None:
            told.append((now_s, event))
    return told


def steady(free_bytes: int, *, from_s: int, to_s: int) -> list[tuple[float, int]]:
    return [(float(second), free_bytes) for second in range(from_s, to_s)]


def test_plenty_of_memory_is_no_event() -> None:
    assert events(steady(10_000, from_s=0, to_s=1000)) == []


def test_low_memory_counts_only_when_it_lasts() -> None:
    assert events([*steady(200, from_s=0, to_s=2), *steady(700, from_s=2, to_s=50)]) == []
    assert events(steady(200, from_s=0, to_s=50)) == [(3.0, "low")]


def test_critical_memory_is_told_after_a_second_and_without_a_low_before() -> None:
    assert events(steady(50, from_s=0, to_s=50)) == [(1.0, "critical")]


def test_low_then_critical_are_both_told() -> None:
    told = events([*steady(200, from_s=0, to_s=10), *steady(50, from_s=10, to_s=20)])

    assert told == [(3.0, "low"), (11.0, "critical")]


def test_relief_needs_clearly_more_memory_than_the_alarm_and_time() -> None:
    low = steady(200, from_s=0, to_s=5)

    assert events([*low, *steady(450, from_s=5, to_s=500)]) == [(3.0, "low")]
    assert events([*low, *steady(700, from_s=5, to_s=20), *steady(450, from_s=20, to_s=500)]) == [
        (3.0, "low")
    ]
    assert events([*low, *steady(700, from_s=5, to_s=500)]) == [(3.0, "low"), (33.0, "relieved")]


def test_memory_that_rises_and_falls_at_the_marks_does_not_flap() -> None:
    free = [(float(second), 700 if second % 2 else 50) for second in range(1000)]

    assert events(free) == []


def test_a_dip_during_the_wait_for_relief_starts_the_wait_again() -> None:
    low, dip = steady(200, from_s=0, to_s=40), [(50.0, 450)]

    told = events([*low, *steady(700, from_s=40, to_s=50), *dip, *steady(700, from_s=51, to_s=90)])

    assert told == [(3.0, "low"), (71.0, "relieved")]


@pytest.mark.parametrize("total_gib", [4, 8, 24, 80])
def test_marks_for_a_device_lie_around_the_reserve(total_gib: int) -> None:
    reserve_bytes = 600 << 20
    marks = watermarks(total_gib << 30, reserve_bytes)

    assert 0 < marks.critical_bytes < marks.low_bytes < reserve_bytes < marks.relieved_bytes


def test_marks_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValueError, match="low_bytes"):
        Watermarks(critical_bytes=3, low_bytes=2, relieved_bytes=1)


_WALK = st.lists(
    st.tuples(st.floats(0.0, 20.0), st.one_of(st.sampled_from(_EVERY_LEVEL), st.integers(0, 2000))),
    max_size=200,
)


def _timed(walk: list[tuple[float, int]]) -> list[tuple[float, int]]:
    now_s, timed = 0.0, []
    for pause_s, free_bytes in walk:
        now_s += pause_s
        timed.append((now_s, free_bytes))
    return timed


@given(walk=_WALK)
def test_relief_and_alarm_never_alternate_faster_than_the_dwell_time(walk: list[tuple[float, int]]) -> None:
    told = events(_timed(walk))

    for (before_s, before), (now_s, now) in pairwise(told):
        assert (before, now) != ("relieved", "relieved")
        assert (before, now) not in {("low", "low"), ("critical", "critical"), ("critical", "low")}
        if now == "relieved" or (before, now) == ("relieved", "low"):
            assert now_s - before_s >= _MARKS.dwell_s
    assert not told or told[0][1] != "relieved"


@given(walk=_WALK, low_bytes=st.integers(0, 1000))
def test_a_steady_end_is_told_whatever_was_before(walk: list[tuple[float, int]], low_bytes: int) -> None:
    marks = Watermarks(critical_bytes=low_bytes // 2, low_bytes=low_bytes, relieved_bytes=low_bytes + 10)
    start = _timed(walk)
    end_s = start[-1][0] if start else 0.0

    told = events([*start, (end_s, low_bytes + 10), (end_s + 1000, low_bytes + 10)], marks)

    assert not told or told[-1][1] == "relieved"

"""Back-off and quarantine: pure time, no process."""

from __future__ import annotations

import pytest

from edgeapp.errors import EngineQuarantined, from_code
from edgeapp.runtime.quarantine import Deaths, RestartPolicy

REASON = "The engine crashed (SIGSEGV)."


def test_the_first_start_and_the_first_restart_do_not_wait_and_later_ones_wait_longer() -> None:
    deaths = Deaths(RestartPolicy())
    pauses = [deaths.pause_s]
    for n in range(7):
        deaths.add(n * 1000.0, REASON)
        pauses.append(deaths.pause_s)
    assert pauses == [0, 0, 0.5, 2, 8, 30, 30, 30]


def test_an_answer_makes_the_next_death_the_first_in_a_row() -> None:
    deaths = Deaths(RestartPolicy())
    for n in range(3):
        deaths.add(n * 1000.0, REASON)
    deaths.answered()
    assert deaths.pause_s == 0
    deaths.add(9000.0, REASON)
    assert deaths.pause_s == 0


def test_three_deaths_within_five_minutes_are_a_quarantine_with_the_reason() -> None:
    deaths = Deaths(RestartPolicy())
    deaths.add(0.0, "first")
    deaths.answered()
    deaths.add(200.0, "second")
    assert deaths.quarantined(200.0) is None
    deaths.add(299.0, REASON)
    quarantined = deaths.quarantined(300.0)
    assert quarantined is not None
    error = quarantined.error(300.0)
    assert "3 times within 5 minutes" in error.message
    assert REASON in error.message
    assert "in 5 minutes" in error.hint
    assert type(from_code(error.code, error.message, error.hint)) is EngineQuarantined


def test_three_deaths_in_a_longer_time_are_none() -> None:
    deaths = Deaths(RestartPolicy())
    for died_s in (0.0, 200.0, 301.0):
        deaths.add(died_s, REASON)
        assert deaths.quarantined(died_s) is None


@pytest.mark.parametrize("after_s", [298.0, 0.0])
def test_a_quarantine_ends_by_itself_and_its_deaths_are_forgotten(after_s: float) -> None:
    deaths = Deaths(RestartPolicy())
    for died_s in (0.0, 1.0, 2.0):
        deaths.add(died_s, REASON)
    assert deaths.quarantined(2.0 + after_s) is not None
    assert deaths.quarantined(302.0) is None
    assert deaths.pause_s == 0
    deaths.add(303.0, REASON)
    assert deaths.quarantined(303.0) is None


def test_it_is_lifted_on_request() -> None:
    deaths = Deaths(RestartPolicy())
    for _ in range(3):
        deaths.add(0.0, REASON)
    deaths.forgive()
    assert deaths.quarantined(0.0) is None
    assert deaths.pause_s == 0

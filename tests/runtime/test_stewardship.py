"""When the engine gives way to other programs, and when it comes back. No engine, no clock."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from edgeapp.monitor.pressure import watermarks
from edgeapp.runtime.stewardship import Action, Habits, Standing, decide

if TYPE_CHECKING:
    from collections.abc import Iterable

MIB = 1 << 20
MARKS = watermarks(total_bytes=8192 * MIB, reserve_bytes=600 * MIB)
HABITS = Habits()


def actions(frees_mib: Iterable[int], *, may_shrink: bool = True) -> list[tuple[int, Action]]:
    """Return what is done at which second, with so much free in each."""
    standing = Standing()
    done: list[tuple[int, Action]] = []
    for now_s, free_mib in enumerate(frees_mib):
        standing, action = decide(
            standing,
            free_bytes=free_mib * MIB,
            now_s=float(now_s),
            marks=MARKS,
            habits=HABITS,
            may_shrink=may_shrink,
        )
        if action != "none":
            done.append((now_s, action))
    return done


def kinds(frees_mib: Iterable[int], *, may_shrink: bool = True) -> list[Action]:
    return [action for _, action in actions(frees_mib, may_shrink=may_shrink)]


def test_enough_free_memory_is_no_reason_for_anything() -> None:
    assert kinds([700] * 1000) == []


def test_a_moment_of_pressure_is_ignored() -> None:
    assert kinds([900] * 10 + [200] * 2 + [900] * 100) == []


def test_caches_go_first_and_the_model_only_when_that_brings_no_relief() -> None:
    assert kinds([900] * 40 + [200] * 6 + [400] * 100) == ["drop caches"]
    assert kinds([900] * 40 + [200] * 20) == ["drop caches", "shrink"]


def test_critical_pressure_does_not_wait_for_the_caches() -> None:
    assert kinds([900] * 40 + [50] * 4)[0] == "shrink"


def test_after_a_change_the_next_one_waits_although_memory_is_still_short() -> None:
    done = actions([900] * 40 + [200] * 200)
    shrinks = [now_s for now_s, action in done if action == "shrink"]
    assert all(after - before >= HABITS.between_changes_s for before, after in itertools.pairwise(shrinks))
    assert len(shrinks) > 1


def test_the_model_comes_back_once_it_has_been_calm_for_long_enough() -> None:
    done = actions([900] * 40 + [200] * 20 + [900] * 300)
    assert [action for _, action in done] == ["drop caches", "shrink", "grow"]
    assert done[2][0] - 60 >= HABITS.grow_after_s


def test_a_program_that_comes_and_goes_does_not_make_the_model_come_and_go() -> None:
    once = [200] * 60 + [2000] * 240
    done = kinds(once * 30 + [2000] * 3600)
    assert 1 < done.count("grow") < 8
    assert done[-1] == "grow"


def test_where_the_model_cannot_move_only_caches_are_given_up() -> None:
    assert kinds([900] * 40 + [50] * 500, may_shrink=False) == ["drop caches"]


@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(1, 90)), max_size=12))
def test_two_changes_never_follow_each_other_closely(spans: list[tuple[int, int]]) -> None:
    frees = [free_mib for free_mib, n_seconds in spans for _ in range(n_seconds)]
    changes = [now_s for now_s, action in actions(frees) if action in ("shrink", "grow")]
    assert all(after - before >= HABITS.between_changes_s for before, after in itertools.pairwise(changes))

"""Threads that share work, stop together and leave nobody behind."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from edgeapp_converters.crew import work_through

if TYPE_CHECKING:
    from edgeapp_converters.scratch import Scratch


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("piece")]


def test_every_task_is_done_once() -> None:
    done: list[int] = []
    for _ in work_through(iter(range(1000)), lambda task, _: done.append(task), n_threads=8):
        pass
    assert sorted(done) == list(range(1000))
    assert not _threads()


def test_a_failure_stops_the_others_and_is_raised_where_the_work_is_awaited() -> None:
    done: list[int] = []

    def work(task: int, _: Scratch) -> None:
        if task == 5:
            raise RuntimeError(task)
        time.sleep(0.001)
        done.append(task)

    with pytest.raises(RuntimeError, match="5"):
        for _ in work_through(iter(range(2000)), work, n_threads=4):
            pass
    assert len(done) < 1000
    assert not _threads()


def test_leaving_early_stops_all_threads() -> None:
    def work(_: int, __: Scratch) -> None:
        time.sleep(0.001)

    with closing(work_through(iter(range(100_000)), work, n_threads=4)) as ticks:
        next(ticks)
        assert _threads()
    assert not _threads()


def test_each_thread_has_buffers_of_its_own() -> None:
    seen: dict[int, set[int]] = {}

    def work(_: int, scratch: Scratch) -> None:
        seen.setdefault(threading.get_ident(), set()).add(id(scratch))
        time.sleep(0.001)

    for _ in work_through(iter(range(50)), work, n_threads=3):
        pass
    assert all(len(scratches) == 1 for scratches in seen.values())
    assert len(set.union(*seen.values())) == len(seen)

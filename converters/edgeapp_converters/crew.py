"""Several threads that work through one sequence. Knows nothing of the work.

An exception in one thread stops the others and is raised again where the work is awaited; an exception there,
Ctrl-C among them, stops all. Nobody is left behind: all threads have ended when the iteration has.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar

from edgeapp_converters.scratch import Scratch

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

Task = TypeVar("Task")

_TICK_S = 0.1


def work_through(
    tasks: Iterator[Task], work: Callable[[Task, Scratch], None], *, n_threads: int
) -> Generator[None, None, None]:
    """Do `work` on all tasks; yield ten times a second, so that the caller can look at what is done.

    Each thread has a `Scratch` of its own. Close the generator, or let it run out: both wait for the threads,
    which end after the task in hand.
    """
    crew = _Crew(tasks, work)
    threads = [threading.Thread(target=crew.run, name=f"piece-{n}", daemon=True) for n in range(n_threads)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(_TICK_S)
                yield
        if crew.failure is not None:
            raise crew.failure
    finally:
        crew.stopping.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join()


class _Crew(Generic[Task]):
    def __init__(self, tasks: Iterator[Task], work: Callable[[Task, Scratch], None]) -> None:
        self.stopping = threading.Event()
        self.failure: BaseException | None = None
        self._tasks = tasks
        self._work = work
        self._lock = threading.Lock()

    def run(self) -> None:
        scratch = Scratch()
        try:
            while not self.stopping.is_set() and (task := self._next()) is not None:
                self._work(task, scratch)
        except BaseException as problem:  # noqa: BLE001 - raised again in the thread that waits
            with self._lock:
                self.failure = self.failure or problem
            self.stopping.set()

    def _next(self) -> Task | None:
        with self._lock:
            return next(self._tasks, None)

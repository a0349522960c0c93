"""Two hundred requests while the worker is killed, stopped and crashed; slow readers; nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgeapp.protocol import Delta, Done, Failed, Generate, Progress
from edgeapp.runtime.client import EngineDown
from tests.runtime.engines import TIRELESS, answer, ask, finish, real_engine

if TYPE_CHECKING:
    from edgeapp.runtime.client import GenerationEvent, StatusEvent
    from edgeapp.runtime.worker_client import WorkerClient

N_REQUESTS, N_READERS = 200, 6
N_SIGNALS = 24
QUESTIONS = [ask(f"Tell me about the number {n}.", max_tokens=24) for n in range(4)]


@dataclass
class Chaos:
    """Sends signals to the worker at seeded moments: after so many events of answers, and in some loads."""

    client: WorkerClient
    rng: random.Random
    n_left: int = N_SIGNALS
    sent: Counter[signal.Signals] = field(default_factory=Counter)
    _n_events: int = 0

    def on_answer_event(self) -> None:
        self._n_events -= 1
        if self._n_events < 0:
            self._n_events = self.rng.randrange(2 * N_REQUESTS * 3 // N_SIGNALS)
            self.strike()

    def on_status(self, status: StatusEvent) -> None:
        if isinstance(status, Progress) and self.rng.random() < 0.04:
            self.strike()

    def strike(self) -> None:
        pid = self.client.worker_pid
        if pid is None or not self.n_left:
            return
        number = self.rng.choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGSEGV, signal.SIGSTOP])
        delay_s = self.rng.choice([0, 0, self.rng.random() * 0.05])
        asyncio.get_running_loop().call_later(delay_s, self._send, pid, number)
        self.n_left -= 1

    def _send(self, pid: int, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            self.sent[number] += 1


@dataclass
class Seen:
    """Everything that one generation said, to its very end."""

    text: str = ""
    ends: list[Done | Failed] = field(default_factory=list)
    n_after_end: int = 0

    def add(self, event: GenerationEvent) -> None:
        self.n_after_end += bool(self.ends)
        match event:
            case Delta():
                self.text += event.text
            case Done() | Failed():
                self.ends.append(event)
            case _:
                pass


async def test_whatever_happens_to_the_worker_every_request_has_one_end(tiny_moe: Path) -> None:
    async with real_engine(tiny_moe, kv_type="f32") as calm:
        expected = [(await answer(calm, question))[0] for question in QUESTIONS]
    async with real_engine(
        tiny_moe, kv_type="f32", n_parallel=N_READERS, hang_timeout_s=1.0, restarts=TIRELESS
    ) as client:
        chaos = Chaos(client, random.Random(20240517))
        client.watch(chaos.on_status)
        waiting = list(range(N_REQUESTS))
        results: dict[int, Seen] = {}

        async def reader() -> None:
            while waiting:
                number = waiting.pop()
                results[number] = seen = Seen()
                async for event in client.generate(QUESTIONS[number % len(QUESTIONS)]):
                    seen.add(event)
                    chaos.on_answer_event()

        async with asyncio.timeout(110):
            await asyncio.gather(*(reader() for _ in range(N_READERS)))
        await answer(client, QUESTIONS[0])
    assert chaos.sent.total() > N_SIGNALS / 2
    assert set(chaos.sent) == {signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP}
    n_done = 0
    for number, seen in results.items():
        whole = expected[number % len(expected)]
        assert len(seen.ends) == 1
        assert not seen.n_after_end
        match seen.ends[0]:
            case Done():
                n_done += 1
                assert seen.text == whole
            case Failed(code=code, message=message):
                assert code in {"engine_crashed", "engine_hung"}
                assert message
                assert whole.startswith(seen.text)
    assert n_done > N_REQUESTS / 2
    assert len(results) == N_REQUESTS


async def test_stopped_between_requests_the_next_one_gets_its_answer_from_a_new_worker(
    tiny_moe: Path,
) -> None:
    async with real_engine(tiny_moe, hang_timeout_s=0.5) as client:
        expected, _ = await answer(client, QUESTIONS[0])
        stopped = client.worker_pid
        assert stopped is not None
        os.kill(stopped, signal.SIGSTOP)
        assert (await answer(client, QUESTIONS[0]))[0] == expected
        assert client.worker_pid != stopped


@pytest.mark.parametrize("phase", ["weights", "context"])
async def test_stopped_while_loading_it_is_started_again(tiny_moe: Path, phase: str) -> None:
    downs: list[EngineDown] = []
    async with real_engine(tiny_moe, hang_timeout_s=0.5) as client:

        def on_status(status: StatusEvent) -> None:
            if isinstance(status, EngineDown):
                downs.append(status)
            if isinstance(status, Progress) and status.phase == phase and not downs:
                assert client.worker_pid is not None
                os.kill(client.worker_pid, signal.SIGSTOP)

        client.watch(on_status)
        await answer(client, QUESTIONS[0])
    assert ["silent" in down.reason for down in downs] == [True]


async def test_an_idle_worker_is_left_in_peace(tiny_moe: Path) -> None:
    async with real_engine(tiny_moe, hang_timeout_s=0.3) as client:
        await answer(client, QUESTIONS[0])
        pid = client.worker_pid
        unread = aiter(client.generate(QUESTIONS[0]))
        while not isinstance(await anext(unread), Delta):
            pass
        await asyncio.sleep(1)
        await answer(client, QUESTIONS[0])
        assert client.worker_pid == pid


async def test_a_reader_that_does_not_read_neither_slows_the_others_nor_loses_anything(
    tiny_moe: Path,
) -> None:
    long = ask("Tell me everything.", max_tokens=400, ignore_eos=True)
    async with real_engine(tiny_moe, n_parallel=2) as client:
        slow = aiter(client.generate(long))
        first = await anext(slow)
        for question in QUESTIONS * 3:
            await answer(client, question)
        *events, end = [first, *[event async for event in slow]]
    counts = [event.n_tokens for event in events if isinstance(event, Delta)]
    assert counts == sorted(set(counts))
    assert isinstance(end, Done)
    assert counts[-1] == end.usage.completion_tokens == 400


async def test_many_requests_leave_neither_files_nor_tasks_nor_objects_behind(tiny_moe: Path) -> None:
    async with real_engine(tiny_moe, n_parallel=4) as client:
        await _ask_many(client, 20)
        before = _left_behind(client)
        await _ask_many(client, 300)
        assert _left_behind(client) == before


async def _ask_many(client: WorkerClient, n_requests: int) -> None:
    """Ask them four at a time; every third reader goes away in the middle."""

    async def one(number: int) -> None:
        if number % 3:
            await finish(client.generate(_short(number)))
        else:
            stream = aiter(client.generate(_short(number)))
            await anext(stream)
            await stream.aclose()  # type: ignore[attr-defined] # an async generator

    for first in range(0, n_requests, 4):
        await asyncio.gather(*(one(number) for number in range(first, first + 4)))
    await client.tokenize("the end")


def _short(number: int) -> Generate:
    return ask(f"number {number}", max_tokens=2, ignore_eos=True)


def _left_behind(client: WorkerClient) -> tuple[int, ...]:
    """Return open files of both processes, tasks, queues, and what the worker still owes."""
    gc.collect()
    worker = client._keeper.worker
    assert worker is not None
    return (
        len(list(Path("/proc/self/fd").iterdir())),
        len(list(Path(f"/proc/{worker.pid}/fd").iterdir())),
        len(asyncio.all_tasks()),
        sum(isinstance(thing, asyncio.Queue) for thing in gc.get_objects()),
        len(worker.exchanges),
    )

"""Faults that the real engine cannot be made to have, from a stand-in process that speaks the protocol."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgeapp.errors import EngineQuarantined, NotEnoughMemory
from edgeapp.protocol import (
    AdapterLoaded,
    AdapterUnloaded,
    AnyRequest,
    Cancel,
    Delta,
    Done,
    Failed,
    Generate,
    LiveSet,
    Load,
    LoadAdapter,
    Loaded,
    Notice,
    SetLive,
    ToolCallDelta,
    UnloadAdapter,
    decode_request,
)
from edgeapp.runtime import supervisor
from edgeapp.runtime.client import EngineDown
from edgeapp.runtime.quarantine import RestartPolicy
from edgeapp.runtime.worker_client import WorkerClient
from tests.runtime.engines import TIRELESS, answer, ask, finish

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from edgeapp.runtime.client import StatusEvent

PLANNED = Load(path="m.gguf", n_ctx=8, n_threads=1, n_parallel=2)


class StandIn:
    """Sets up a worker with a fault and tells what each start of it was asked."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._monkeypatch = monkeypatch

    @asynccontextmanager
    async def __call__(
        self,
        fault: str,
        *,
        load: Load = PLANNED,
        restarts: RestartPolicy = TIRELESS,
        hang_timeout_s: float = 60.0,
    ) -> AsyncIterator[tuple[WorkerClient, list[StatusEvent]]]:
        command = [sys.executable, str(Path(__file__).with_name("stand_in_worker.py")), fault]
        self._monkeypatch.setattr(supervisor, "worker_command", lambda: [*command, str(self._folder)])
        client = WorkerClient(load, restarts=restarts, hang_timeout_s=hang_timeout_s)
        statuses: list[StatusEvent] = []
        client.watch(statuses.append)
        try:
            yield client, statuses
        finally:
            await client.aclose()

    def told(self, n: int) -> list[AnyRequest]:
        """Return the requests that the start number `n`, from 0, received."""
        lines = (self._folder / f"{n}.jsonl").read_bytes().splitlines()
        return [decode_request(line) for line in lines]

    @property
    def n_starts(self) -> int:
        return len(list(self._folder.iterdir()))


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    folder = tmp_path / "starts"
    folder.mkdir()
    return StandIn(folder, monkeypatch)


def downs(statuses: list[StatusEvent]) -> list[EngineDown]:
    return [status for status in statuses if isinstance(status, EngineDown)]


async def end_of(client: WorkerClient) -> Failed:
    _, end = await finish(client.generate(ask("hello")))
    assert isinstance(end, Failed)
    return end


# Again, once -----------------------------------------------------------------------------------------------


async def test_a_question_that_kills_two_workers_fails_and_is_not_sent_to_a_third(stand_in: StandIn) -> None:
    async with stand_in("dies of a question") as (client, statuses):
        end = await end_of(client)
        await client.load()
        assert len(downs(statuses)) == 2
    assert end.code == "engine_crashed"
    assert "SIGSEGV" in end.message
    sent = [sum(isinstance(told, Generate) for told in stand_in.told(n)) for n in range(stand_in.n_starts)]
    assert sent == [1, 1, 0]


async def test_an_answer_that_has_begun_with_a_tool_call_is_not_asked_for_again(stand_in: StandIn) -> None:
    async with stand_in("dies in a tool call") as (client, _):
        events = [event async for event in client.generate(ask("hello"))]
    assert [type(event) for event in events] == [ToolCallDelta, Failed]


async def test_many_questions_at_once_are_each_answered_or_failed_once(stand_in: StandIn) -> None:
    async with stand_in("dies of a question") as (client, _):
        ends = await asyncio.gather(*(end_of(client) for _ in range(8)))
    assert {end.code for end in ends} == {"engine_crashed"}


async def test_an_answer_that_is_cancelled_while_the_worker_starts_again_ends_as_cancelled(
    stand_in: StandIn,
) -> None:
    async with stand_in("dies of a question", restarts=TIRELESS) as (client, statuses):
        generation = client.generate(ask("hello"))
        client.watch(lambda status: generation.cancel() if isinstance(status, EngineDown) else None)
        _, end = await finish(generation)
        assert len(downs(statuses)) == 1
    assert isinstance(end, Done)
    assert end.finish_reason == "cancelled"


# Quarantine ------------------------------------------------------------------------------------------------


async def test_after_three_deaths_requests_fail_at_once_until_it_is_loaded_anew(stand_in: StandIn) -> None:
    async with stand_in("dies of a question", restarts=RestartPolicy(backoff_s=(0.0,))) as (client, statuses):
        await end_of(client)
        third = await end_of(client)
        assert third.code == "engine_quarantined"
        assert "SIGSEGV" in third.message
        n_starts = stand_in.n_starts
        assert (await end_of(client)).code == "engine_quarantined"
        with pytest.raises(EngineQuarantined):
            await client.load()
        assert stand_in.n_starts == n_starts == 3
        assert [down.retry_in_s for down in downs(statuses)] == [0, 0, None]
        assert "minutes" in downs(statuses)[-1].hint
        assert (await client.load_anew()).n_ctx == 8


async def test_a_quarantine_ends_by_itself(stand_in: StandIn) -> None:
    restarts = RestartPolicy(backoff_s=(0.0,), max_deaths=1, quarantine_s=0.3)
    async with stand_in("dies of a question", restarts=restarts) as (client, _):
        assert (await end_of(client)).code == "engine_quarantined"
        await asyncio.sleep(0.35)
        await client.load()


# Memory ----------------------------------------------------------------------------------------------------


async def test_after_a_death_for_want_of_memory_it_starts_tighter_and_says_so(stand_in: StandIn) -> None:
    async with stand_in("aborts without memory") as (client, statuses):
        await client.load()
    loads = [told for n in range(stand_in.n_starts) for told in stand_in.told(n) if isinstance(told, Load)]
    assert [load.n_ubatch for load in loads] == [512, 256, 128]
    assert "n_ubatch 256" in downs(statuses)[0].hint
    notices = [status for status in statuses if isinstance(status, Notice)]
    assert [notice.code for notice in notices] == ["started_tighter"]
    assert "n_ubatch 128" in notices[0].message


async def test_a_load_that_is_refused_for_memory_is_tried_tighter(stand_in: StandIn) -> None:
    async with stand_in("refuses for memory") as (client, statuses):
        await client.load()
    assert stand_in.n_starts == 2
    assert downs(statuses)[0].reason == "The KV cache does not fit."


async def test_without_anything_to_give_up_a_refusal_for_memory_is_the_error(stand_in: StandIn) -> None:
    small = Load(path="m.gguf", n_ctx=8, n_threads=1, n_ubatch=64)
    async with stand_in("always refuses for memory", load=small) as (client, _):
        with pytest.raises(NotEnoughMemory):
            await client.load()
    assert stand_in.n_starts == 1


async def test_a_crash_for_another_reason_changes_nothing(stand_in: StandIn) -> None:
    async with stand_in("dies of a question") as (client, _):
        await end_of(client)
        await client.load()
    loads = [told for n in range(stand_in.n_starts) for told in stand_in.told(n) if isinstance(told, Load)]
    assert {load.n_ubatch for load in loads} == {512}


# What must hold again --------------------------------------------------------------------------------------


async def test_adapters_and_live_reports_come_back_before_anything_is_asked_again(stand_in: StandIn) -> None:
    async with stand_in("dies of a question") as (client, statuses):
        for name in ("a", "lost", "gone"):
            await client.ask(LoadAdapter(name=name, path=f"{name}.gguf"), AdapterLoaded)
        await client.ask(UnloadAdapter(name="gone"), AdapterUnloaded)
        await client.ask(SetLive(expert_usage=True), LiveSet)
        await end_of(client)
        await client.load()
    second, third = stand_in.told(1), stand_in.told(2)
    assert [type(request) for request in second[:5]] == [Load, LoadAdapter, LoadAdapter, SetLive, Generate]
    assert [request.name for request in second if isinstance(request, LoadAdapter)] == ["a", "lost"]
    assert [request.name for request in third if isinstance(request, LoadAdapter)] == ["a"]
    notices = [status for status in statuses if isinstance(status, Notice)]
    assert [(notice.code, notice.message) for notice in notices] == [("not_restored", "It is gone.")]


async def test_an_answer_whose_reader_goes_away_is_cancelled_in_the_worker(stand_in: StandIn) -> None:
    async with stand_in("says one word") as (client, _):
        stream = aiter(client.generate(ask("hello")))
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined] # an async generator
        await client.tokenize("after it")
    (sent,) = [request.id for request in stand_in.told(0) if isinstance(request, Generate)]
    assert [told.target for told in stand_in.told(0) if isinstance(told, Cancel)] == [sent]


# Odd ends --------------------------------------------------------------------------------------------------


async def test_a_line_without_an_end_is_no_silence(stand_in: StandIn) -> None:
    async with stand_in("writes an endless line") as (client, _):
        await answer(client, ask("hello"))


async def test_a_child_that_holds_the_pipes_of_a_dead_worker_keeps_nobody_waiting(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "KILL_TIMEOUT_S", 0.2)
    async with stand_in("leaves a child", hang_timeout_s=0.5) as (client, _):
        async with asyncio.timeout(15):
            end = await end_of(client)
    assert end.code == "engine_hung"


async def test_a_worker_that_computes_without_end_is_hung_too(stand_in: StandIn) -> None:
    async with stand_in("spins", hang_timeout_s=0.5) as (client, _):
        assert (await end_of(client)).code == "engine_hung"


async def test_nothing_that_the_worker_says_reaches_a_terminal_uncleaned(stand_in: StandIn) -> None:
    async with stand_in("escapes") as (client, statuses):
        events = [event async for event in client.generate(ask("hello"))]
    thought, call, _ = events
    assert isinstance(thought, Delta)
    assert (thought.text, thought.channel) == ("a[2Jb", "reasoning")
    assert isinstance(call, ToolCallDelta)
    assert (call.name, call.arguments) == ("now", '{"": 1}')
    loaded = next(status for status in statuses if isinstance(status, Loaded))
    assert loaded.model_desc == "a model"

"""The worker dies or hangs at any moment: the request ends with a clear error and the next one works."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from edgeapp.errors import EngineQuarantined
from edgeapp.protocol import PROTOCOL_VERSION, Delta, Done, Failed, Hello, Progress, Sampling, encode
from edgeapp.runtime import supervisor
from edgeapp.runtime.client import EngineDown
from edgeapp.runtime.quarantine import RestartPolicy
from edgeapp.session import ChatSession, ChatSettings
from tests.runtime.engines import answer, ask, finish, real_engine

if TYPE_CHECKING:
    from pathlib import Path

    from edgeapp.runtime.client import GenerationEvent, StatusEvent
    from edgeapp.runtime.worker_client import WorkerClient


def _kill(client: WorkerClient, number: signal.Signals = signal.SIGKILL) -> None:
    assert client.worker_pid is not None
    os.kill(client.worker_pid, number)


async def test_killed_while_decoding_the_answer_fails_and_the_next_one_works(tiny_moe: Path) -> None:
    statuses: list[StatusEvent] = []
    async with real_engine(tiny_moe) as client:
        client.watch(statuses.append)
        events: list[GenerationEvent] = []
        async for event in client.generate(ask("tell me everything", max_tokens=0)):
            if isinstance(event, Delta) and not events:
                _kill(client)
            events.append(event)
        assert isinstance(events[-1], Failed)
        assert events[-1].code == "engine_crashed"
        assert [type(e) for e in events].count(Failed) == 1
        await answer(client, ask("still there?", max_tokens=2))
    assert sum(isinstance(status, EngineDown) for status in statuses) == 1


async def test_killed_while_prefilling_the_answer_comes_from_the_next_worker(demo_model: Path) -> None:
    async with real_engine(demo_model, n_ctx=512, n_ubatch=16) as client:
        events: list[GenerationEvent] = []
        async for event in client.generate(ask("word " * 150, max_tokens=1)):
            if isinstance(event, Progress) and not events:
                first = client.worker_pid
                _kill(client)
            events.append(event)
        assert isinstance(events[-1], Done)
        assert [type(e) for e in events].count(Done) == 1
        assert client.worker_pid not in (first, None)


async def test_killed_while_loading_it_is_started_again(tiny_moe: Path) -> None:
    downs: list[EngineDown] = []
    killed: list[int] = []
    async with real_engine(tiny_moe) as client:

        def on_status(status: StatusEvent) -> None:
            if isinstance(status, EngineDown):
                downs.append(status)
            if isinstance(status, Progress) and status.phase == "weights" and not killed:
                killed.append(1)
                _kill(client)

        client.watch(on_status)
        await client.load()
        await answer(client, ask("hello", max_tokens=2))
    assert len(downs) == 1


async def test_a_worker_that_always_dies_while_loading_is_given_up(tiny_moe: Path) -> None:
    async with real_engine(tiny_moe, restarts=RestartPolicy(backoff_s=(0.0,))) as client:
        client.watch(
            lambda status: (
                _kill(client) if isinstance(status, Progress) and status.phase == "context" else None
            )
        )
        with pytest.raises(EngineQuarantined, match=r"3 times.*SIGKILL"):
            await client.load()


async def test_killed_while_idle_it_is_back_before_the_next_message(tiny_moe: Path) -> None:
    async with real_engine(tiny_moe) as client:
        await answer(client, ask("hello", max_tokens=2))
        first = client.worker_pid
        _kill(client)
        async with asyncio.timeout(20):
            while client.worker_pid in (first, None):
                await asyncio.sleep(0.01)
        await answer(client, ask("hello", max_tokens=2))


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
async def test_a_crash_is_told_by_its_signal(tiny_moe: Path, number: signal.Signals) -> None:
    async with real_engine(tiny_moe) as client:
        generation = client.generate(ask("tell me everything", max_tokens=0))
        async for event in generation:
            if isinstance(event, Delta):
                _kill(client, number)
        assert isinstance(event, Failed)
        assert number.name in event.message


async def test_a_hung_worker_is_ended_and_the_next_message_works(tiny_moe: Path) -> None:
    async with real_engine(tiny_moe, hang_timeout_s=1.0) as client:
        generation = client.generate(ask("tell me everything", max_tokens=0))
        async for event in generation:
            if isinstance(event, Delta):
                _kill(client, signal.SIGSTOP)
        assert isinstance(event, Failed)
        assert event.code == "engine_hung"
        await answer(client, ask("still there?", max_tokens=2))


async def test_a_chat_keeps_the_partial_answer_of_a_crash(tiny_moe: Path) -> None:
    async with real_engine(tiny_moe) as client:
        chat = ChatSession(client, ChatSettings(sampling=Sampling(temp=0)))
        arrived = ""
        async for event in chat.send("tell me everything"):
            if isinstance(event, Delta):
                arrived += event.text
                _kill(client)
        assert arrived
        assert [(turn.role, turn.status) for turn in chat.turns] == [
            ("user", "complete"),
            ("assistant", "failed"),
        ]
        assert chat.turns[1].text == arrived
        ends = [event async for event in chat.send("go on") if isinstance(event, Done | Failed)]
        assert isinstance(ends[0], Done)


async def test_a_damaged_model_is_refused_by_the_worker_and_the_parent_lives(
    tiny_moe: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.gguf"
    data = bytearray(tiny_moe.read_bytes())
    data[24:64] = b"\xff" * 40
    broken.write_bytes(data)
    async with real_engine(broken) as client:
        _, end = await finish(client.generate(ask("hello")))
    assert isinstance(end, Failed)


async def test_a_library_that_cannot_be_loaded_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, tiny_moe: Path
) -> None:
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", "/nonexistent")
    async with real_engine(tiny_moe) as client:
        _, end = await finish(client.generate(ask("hello")))
    assert isinstance(end, Failed)
    assert end.code == "binding_mismatch"


async def test_a_worker_that_ends_without_a_word_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tiny_moe: Path
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    async with real_engine(tiny_moe, restarts=RestartPolicy(backoff_s=(0.0,))) as client:
        _, end = await finish(client.generate(ask("hello")))
    assert isinstance(end, Failed)
    assert end.code == "engine_quarantined"
    assert "status 1" in end.message


async def test_a_worker_that_dies_right_after_its_greeting_is_a_crash_at_once(
    monkeypatch: pytest.MonkeyPatch, tiny_moe: Path
) -> None:
    hello = Hello(protocol_version=PROTOCOL_VERSION, pid=1, binding_version="", system_info="", devices=())
    script = f"import os; os.write(1, {encode(hello)!r})"
    monkeypatch.setattr(supervisor, "worker_command", lambda: [sys.executable, "-c", script])
    restarts = RestartPolicy(backoff_s=(0.0,))
    async with real_engine(tiny_moe, hang_timeout_s=600, restarts=restarts) as client:
        async with asyncio.timeout(30):
            _, end = await finish(client.generate(ask("hello")))
    assert isinstance(end, Failed)
    assert end.code == "engine_quarantined"


async def test_a_request_that_the_worker_cannot_read_fails_at_once(tiny_moe: Path) -> None:
    async with real_engine(tiny_moe, hang_timeout_s=600) as client:
        await client.load()
        async with asyncio.timeout(30):
            _, end = await finish(client.generate(ask("hello", sampling=Sampling(temp=float("nan")))))
        assert isinstance(end, Failed)
        assert end.code == "protocol"
        await answer(client, ask("hello", max_tokens=2))


async def test_a_closed_client_starts_nothing_and_a_waiting_answer_fails(tiny_moe: Path) -> None:
    async with real_engine(tiny_moe) as client:
        waiting = asyncio.create_task(finish(client.generate(ask("hello"))))
        await asyncio.sleep(0)
        await client.aclose()
        _, end = await waiting
        assert isinstance(end, Failed)
        _, later = await finish(client.generate(ask("hello")))
        assert isinstance(later, Failed)
        assert client.worker_pid is None


async def test_a_hang_is_told_as_a_hang(tiny_moe: Path) -> None:
    downs: list[StatusEvent] = []
    async with real_engine(tiny_moe, hang_timeout_s=1.0) as client:
        client.watch(lambda status: downs.append(status) if isinstance(status, EngineDown) else None)
        async for event in client.generate(ask("tell me everything", max_tokens=0)):
            if isinstance(event, Delta):
                _kill(client, signal.SIGSTOP)
        (down,) = downs
        assert isinstance(down, EngineDown)
        assert "silent" in down.reason
        assert "memory" not in down.hint


async def test_a_message_after_many_deaths_is_not_kept_waiting(tiny_moe: Path) -> None:
    restarts = RestartPolicy(backoff_s=(0.0, 0.0, 600.0), max_deaths=9)
    async with real_engine(tiny_moe, restarts=restarts) as client:
        downs: list[EngineDown] = []
        client.watch(lambda status: downs.append(status) if isinstance(status, EngineDown) else None)
        for n_deaths in (1, 2, 3):
            await client.load()
            _kill(client)
            while len(downs) < n_deaths:
                await asyncio.sleep(0.01)
        async with asyncio.timeout(60):
            await answer(client, ask("still there?", max_tokens=2))

"""Memory is given back on purpose, and the conversation goes on from its computed state."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from edgeapp import paths
from edgeapp.errors import EdgeappError, EngineCrashed, ModelError, NotEnoughMemory
from edgeapp.protocol import Delta, Done, Load, Loaded, Notice, Progress
from edgeapp.runtime.client import Released
from edgeapp.runtime.worker_client import WorkerClient
from tests.runtime.engines import answer, ask, finish, real_engine
from tests.tiny_hybrid import write_tiny_hybrid
from tests.tiny_mamba import write_tiny_mamba
from tests.tiny_swa import write_tiny_swa

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.runtime.client import StatusEvent

FIRST = "tell me a long story about a lighthouse and the people who live in it " * 3
N_TOKENS = 12


@pytest.fixture(scope="module", params=["moe", "recurrent", "sliding window", "hybrid"])
def model(request: pytest.FixtureRequest, tiny_moe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")
    match request.param:
        case "recurrent":
            return write_tiny_mamba(folder / "mamba.gguf")
        case "sliding window":
            return write_tiny_swa(folder / "swa.gguf")
        case "hybrid":
            return write_tiny_hybrid(folder / "hybrid.gguf")
        case _:
            return tiny_moe


async def _first(client: WorkerClient, text: str = FIRST) -> str:
    return (await answer(client, ask(text, max_tokens=N_TOKENS)))[0]


async def _second(client: WorkerClient, first: str, text: str = FIRST) -> tuple[str, Done]:
    return await answer(client, ask(text, first, "go on", max_tokens=N_TOKENS))


def _parked_files() -> list[Path]:
    return sorted((paths.cache_dir() / "parked").glob("*/*.kv"))


def _notices(statuses: Sequence[StatusEvent]) -> list[str]:
    return [status.code for status in statuses if isinstance(status, Notice)]


async def test_a_released_conversation_goes_on_as_if_it_had_not_been(model: Path) -> None:
    async with real_engine(model) as uninterrupted:
        first = await _first(uninterrupted)
        second, usual = await _second(uninterrupted, first)
    async with real_engine(model) as client:
        assert await _first(client) == first
        pid = client.worker_pid
        await client.release()
        assert client.worker_pid is None
        assert not Path(f"/proc/{pid}").exists()
        text, done = await _second(client, first)
    assert text == second
    assert done.usage.cached_tokens == usual.usage.cached_tokens > 0


async def test_what_is_parked_is_private_is_used_up_and_gone_afterwards(tiny_moe: Path) -> None:
    async with real_engine(tiny_moe) as client:
        first = await _first(client)
        assert (await client.load()).n_conversations == 0
        await client.release()
        (parked,) = _parked_files()
        assert parked.stat().st_mode & 0o077 == 0
        assert parked.parent.stat().st_mode & 0o077 == 0
        assert (await client.load()).n_conversations == 1
        await client.release()
        assert len(_parked_files()) == 1
        _, done = await _second(client, first)
        assert done.usage.cached_tokens > 0
        assert not _parked_files()
        await client.release()
    assert not (paths.cache_dir() / "parked").exists()


async def test_damaged_files_cost_time_and_change_no_answer(tiny_moe: Path) -> None:
    texts = [f"{n} {FIRST}" for n in range(4)]
    positions = (0, 40, 700, -40)  # magic, header, tokens or text, state
    async with real_engine(tiny_moe, cache_ram_bytes=1 << 28) as client:
        firsts = [await _first(client, text) for text in texts]
        await client.release()
        for parked, position in zip(_parked_files(), positions, strict=True):
            data = bytearray(parked.read_bytes())
            data[position] ^= 0xFF
            parked.write_bytes(data)
        answers = [await _second(client, first, text) for text, first in zip(texts, firsts, strict=True)]
        assert not _parked_files()
    async with real_engine(tiny_moe) as cold:
        for text, first, (second, done) in zip(texts, firsts, answers, strict=True):
            assert (await _second(cold, first, text))[0] == second
            assert done.usage.cached_tokens < N_TOKENS


async def test_state_of_another_kv_type_is_not_taken_in(tiny_moe: Path) -> None:
    async with real_engine(tiny_moe) as client:
        first = await _first(client)
        other = Load(path=str(tiny_moe), n_ctx=512, n_threads=1, kv_type="f32")
        loaded = await client.change(other)
        assert loaded.n_conversations == 0
        _, done = await _second(client, first)
        assert done.usage.cached_tokens == 0


async def test_several_conversations_come_back_also_those_that_left_the_kv_cache(tiny_moe: Path) -> None:
    texts = [f"{n} {FIRST}" for n in range(8)]
    async with real_engine(tiny_moe, n_ctx=512, cache_ram_bytes=1 << 28) as client:
        firsts = [await _first(client, text) for text in texts]
        await client.release()
        assert len(_parked_files()) == len(texts)
        for text, first in zip(texts, firsts, strict=True):
            _, done = await _second(client, first, text)
            assert done.usage.cached_tokens > N_TOKENS


async def test_without_a_place_to_keep_it_the_conversation_is_read_again(
    tiny_moe: Path, isolated_user: Path
) -> None:
    statuses: list[StatusEvent] = []
    (isolated_user / "cache").mkdir(parents=True)
    (isolated_user / "cache" / "parked").write_text("a file, not a folder", "utf-8")
    async with real_engine(tiny_moe) as client:
        client.watch(statuses.append)
        first = await _first(client)
        await client.release()
        _, done = await _second(client, first)
    assert done.usage.cached_tokens == 0
    assert _notices(statuses) == ["not_parked"]


async def test_an_idle_engine_is_released_by_itself(tiny_moe: Path) -> None:
    load = Load(path=str(tiny_moe), n_ctx=256, n_threads=1)
    client = WorkerClient(load, idle_release_s=0.05)
    told: asyncio.Queue[Released] = asyncio.Queue()
    client.watch(lambda status: told.put_nowait(status) if isinstance(status, Released) else None)
    try:
        first = await _first(client)
        async with asyncio.timeout(30):
            assert (await told.get()).why == "idle"
        assert client.is_released
        _, done = await _second(client, first)
        assert done.usage.cached_tokens > 0
    finally:
        await client.aclose()


async def test_the_next_start_after_a_release_is_planned_anew(tiny_moe: Path) -> None:
    load = Load(path=str(tiny_moe), n_ctx=512, n_threads=1)
    n_plans = 0

    async def replan() -> tuple[Load, Sequence[Load]]:
        nonlocal n_plans
        n_plans += 1
        return replace(load, n_ctx=1024), ()

    client = WorkerClient(load, replan=replan)
    try:
        assert (await client.load()).n_ctx == 512
        await client.release()
        assert n_plans == 0
        assert (await client.load()).n_ctx == 1024
        assert (await client.load()).n_ctx == 1024
        assert n_plans == 1
        assert client.present_load.n_ctx == 1024
    finally:
        await client.aclose()


async def test_a_plan_that_fails_is_the_error_and_is_made_again(tiny_moe: Path) -> None:
    load = Load(path=str(tiny_moe), n_ctx=512, n_threads=1)
    n_plans = 0

    async def replan() -> tuple[Load, Sequence[Load]]:
        nonlocal n_plans
        n_plans += 1
        if n_plans == 1:
            raise NotEnoughMemory("Nothing is free.")
        return load, ()

    client = WorkerClient(load, replan=replan)
    try:
        await client.load()
        await client.release()
        with pytest.raises(NotEnoughMemory, match="Nothing is free"):
            await client.load()
        assert client.is_released
        await client.load()
    finally:
        await client.aclose()


async def test_a_change_keeps_the_conversation(tiny_moe: Path) -> None:
    async with real_engine(tiny_moe) as client:
        first = await _first(client)
        loaded = await client.change(Load(path=str(tiny_moe), n_ctx=1024, n_threads=1, n_ubatch=64))
        assert (loaded.n_ctx, loaded.n_conversations) == (1024, 1)
        _, done = await _second(client, first)
        assert done.usage.cached_tokens > N_TOKENS


async def test_a_change_lets_a_running_answer_finish_and_the_next_one_wait(tiny_moe: Path) -> None:
    load = Load(path=str(tiny_moe), n_ctx=512, n_threads=1)
    async with real_engine(tiny_moe) as client:
        running = aiter(client.generate(ask("hello", max_tokens=300, ignore_eos=True)))
        while not isinstance(await anext(running), Delta):
            pass
        changing = asyncio.create_task(client.change(replace(load, n_ubatch=64)))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(finish(client.generate(ask("and then", max_tokens=4))))
        ends = [event async for event in running if isinstance(event, Done)]
        assert ends[0].finish_reason == "length"
        await changing
        _, end = await waiting
        assert isinstance(end, Done)
        assert client.present_load.n_ubatch == 64


async def test_a_change_ends_an_answer_that_takes_too_long(tiny_moe: Path) -> None:
    async with real_engine(tiny_moe) as client:
        running = aiter(client.generate(ask("hello", max_tokens=0, ignore_eos=True)))
        while not isinstance(await anext(running), Delta):
            pass
        await client.change(Load(path=str(tiny_moe), n_ctx=512, n_threads=1), finish_s=0.0)
        ends = [event async for event in running if isinstance(event, Done)]
        assert ends[0].finish_reason == "cancelled"


async def test_after_a_change_that_cannot_be_made_it_is_as_before(tiny_moe: Path, tmp_path: Path) -> None:
    async with real_engine(tiny_moe) as client:
        first = await _first(client)
        with pytest.raises(EdgeappError) as caught:
            await client.change(Load(path=str(tmp_path / "nowhere.gguf"), n_ctx=512, n_threads=1))
        assert not isinstance(caught.value, EngineCrashed) or isinstance(caught.value, ModelError)
        _, done = await _second(client, first)
        assert done.usage.cached_tokens > 0


async def test_a_release_gives_up_a_load_that_runs(tiny_moe: Path) -> None:
    async with real_engine(tiny_moe) as client:
        begun = asyncio.Event()
        client.watch(lambda status: begun.set() if isinstance(status, Progress) else None)
        loading = asyncio.create_task(client.load())
        await begun.wait()
        await client.release()
        with pytest.raises(EngineCrashed):
            await loading
        assert client.worker_pid is None
        assert isinstance(await client.load(), Loaded)


async def test_a_request_during_a_release_brings_the_engine_up_again(tiny_moe: Path) -> None:
    async with real_engine(tiny_moe) as client:
        first = await _first(client)
        releasing = asyncio.create_task(client.release())
        await asyncio.sleep(0)
        _, done = await _second(client, first)
        await releasing
        assert done.usage.cached_tokens > 0
        assert not client.is_released


async def test_dropped_caches_leave_the_last_conversation(tiny_moe: Path) -> None:
    async with real_engine(tiny_moe, cache_ram_bytes=1 << 28) as client:
        texts = [f"{n} {FIRST}" for n in range(8)]
        firsts = [await _first(client, text) for text in texts]
        dropped = await client.drop_caches()
        assert dropped.n_conversations == len(texts) - 1
        assert dropped.bytes > 0
        assert (await client.drop_caches()).n_conversations == 0
        _, last = await _second(client, firsts[-1], texts[-1])
        assert last.usage.cached_tokens > N_TOKENS
        _, other = await _second(client, firsts[0], texts[0])
        assert other.usage.cached_tokens < N_TOKENS


async def test_a_folder_that_a_dead_process_left_is_removed(tiny_moe: Path) -> None:
    stale = paths.cache_dir() / "parked" / "1-0-1"
    stale.mkdir(parents=True)
    ours = paths.cache_dir() / "parked" / f"{os.getppid()}-{_started(os.getppid())}-1"
    ours.mkdir()
    async with real_engine(tiny_moe) as client:
        await _first(client)
        await client.release()
        assert not stale.exists()
        assert ours.exists()


def _started(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[19]

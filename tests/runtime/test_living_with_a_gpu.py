"""A GPU that runs out of memory, is taken by others, dies or hangs: the chat goes on, or says why not."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from edgeapp.errors import DeviceLost, NotEnoughMemory
from edgeapp.hardware import GpuSample
from edgeapp.monitor.samples import DeviceSample, MemorySample, RamSample
from edgeapp.protocol import Delta, Failed, Load, Loaded, Notice, Park, Parked
from edgeapp.runtime.client import EngineDown
from edgeapp.runtime.steward import Steward
from edgeapp.runtime.stewardship import Habits
from edgeapp.runtime.worker_client import WorkerClient
from tests.fake_gpu import MIB, FakeGpu, fake_gpu
from tests.runtime.engines import TIRELESS, answer, ask, finish

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

    from edgeapp.runtime.client import GenerationEvent, StatusEvent

TEXT = "tell me a long story about a lighthouse and the people who live in it " * 2


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    """A device of 256 MiB that every worker of the test finds."""
    with fake_gpu(total_mib=256) as device:
        for name, value in device.environment.items():
            monkeypatch.setenv(name, value)
        yield device


def on_gpu(model: Path, gpu: FakeGpu, **options: object) -> Load:
    load = Load(path=str(model), n_ctx=512, n_threads=1, device=gpu.name, n_gpu_layers=99)
    return replace(load, **options)


def on_cpu(model: Path) -> Load:
    return Load(path=str(model), n_ctx=512, n_threads=1)


@asynccontextmanager
async def engine(
    load: Load, *, fallbacks: Sequence[Load] = (), allow_cpu: bool = False, hang_timeout_s: float = 60.0
) -> AsyncIterator[tuple[WorkerClient, list[StatusEvent]]]:
    client = WorkerClient(
        load, fallbacks=fallbacks, allow_cpu=allow_cpu, hang_timeout_s=hang_timeout_s, restarts=TIRELESS
    )
    statuses: list[StatusEvent] = []
    client.watch(statuses.append)
    try:
        yield client, statuses
    finally:
        await client.aclose()


def codes(statuses: Sequence[StatusEvent]) -> list[str]:
    return [status.code for status in statuses if isinstance(status, Notice)]


def devices_of(loaded: Loaded) -> set[str]:
    return {use.device for use in loaded.buffers if use.weights_bytes}


# Out of memory ---------------------------------------------------------------------------------------------


async def test_a_load_that_does_not_fit_walks_the_ladder_and_says_what_changed(
    demo_model: Path, gpu: FakeGpu
) -> None:
    gpu.set_free(60)
    full = on_gpu(demo_model, gpu)
    fallbacks = (replace(full, n_ubatch=128), replace(full, n_gpu_layers=8), on_cpu(demo_model))
    async with engine(full, fallbacks=fallbacks) as (client, statuses):
        loaded = await client.load()
        assert client.present_load == fallbacks[1]
        assert gpu.name in devices_of(loaded)
    assert codes(statuses) == ["started_tighter"]
    downs = [status.hint for status in statuses if isinstance(status, EngineDown)]
    assert len(downs) == 2
    assert "n_ubatch 128" in downs[0]


async def test_when_nothing_fits_the_first_error_says_what_was_tried(demo_model: Path, gpu: FakeGpu) -> None:
    gpu.set_free(4)
    full = on_gpu(demo_model, gpu)
    async with engine(full, fallbacks=(replace(full, n_ubatch=128),)) as (client, _):
        with pytest.raises(NotEnoughMemory) as caught:
            await client.load()
        assert "n_ubatch 128" in caught.value.hint
        gpu.take(0)
        await client.load()
        assert client.present_load == full


# Released --------------------------------------------------------------------------------------------------


async def test_a_release_frees_the_gpu_and_the_conversation_goes_on(tiny_moe: Path, gpu: FakeGpu) -> None:
    async with engine(on_gpu(tiny_moe, gpu)) as (client, _):
        first, _done = await answer(client, ask(TEXT, max_tokens=8))
        assert gpu.used_bytes() > MIB
        await client.release()
        assert gpu.used_bytes() == 0
        _, done = await answer(client, ask(TEXT, first, "go on", max_tokens=8))
        assert done.usage.cached_tokens > 0
        assert gpu.used_bytes() > MIB


async def test_the_gpu_is_free_before_the_files_are_written(
    tiny_moe: Path, gpu: FakeGpu, tmp_path: Path
) -> None:
    async with engine(on_gpu(tiny_moe, gpu)) as (client, _):
        await answer(client, ask(TEXT, max_tokens=2))
        parked = await client.ask(Park(folder=str(tmp_path)), Parked)
        assert parked.n_conversations == len(list(tmp_path.iterdir())) == 1
        async with asyncio.timeout(30):  # the server hears of it a moment later
            while gpu.used_bytes():
                await asyncio.sleep(0.01)
        assert client.worker_pid is not None


# Other programs --------------------------------------------------------------------------------------------


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def sample_of(
    free_mib: int, *, name: str = "RPC0", gpu: GpuSample | None = None, ram_mib: int = 1 << 19
) -> MemorySample:
    seen = DeviceSample(name=name, description="", total_bytes=256 * MIB, free_bytes=free_mib * MIB, gpu=gpu)
    ram = RamSample(
        total_bytes=1 << 40,
        available_bytes=ram_mib * MIB,
        ours_bytes=0,
        mapped_bytes=0,
        total_swap_bytes=0,
        free_swap_bytes=0,
    )
    return MemorySample(time_s=0.0, devices=(seen,), ram=ram)


async def no_plan(*, max_vram_bytes: int) -> tuple[Load, Sequence[Load]]:
    raise NotEnoughMemory(f"Nothing fits into {max_vram_bytes} bytes.")


async def test_the_model_makes_room_for_others_and_comes_back_with_its_conversation(
    tiny_moe: Path, gpu: FakeGpu
) -> None:
    large, small = on_gpu(tiny_moe, gpu), on_gpu(tiny_moe, gpu, n_gpu_layers=1)
    budgets: list[int] = []

    async def replan(*, max_vram_bytes: int) -> tuple[Load, Sequence[Load]]:
        budgets.append(max_vram_bytes)
        if len(budgets) == 1:
            raise NotEnoughMemory("Nothing that small is possible.")
        return (large if max_vram_bytes > 64 * MIB else small), ()

    async with engine(large) as (client, statuses):
        first, _ = await answer(client, ask(TEXT, max_tokens=8))
        clock = Clock()
        steward = Steward(client, replan, reserve_bytes=30 * MIB, habits=Habits(), clock=clock)

        async def pass_time(seconds: int, *, free_mib: int) -> None:
            for _ in range(seconds):
                clock.now_s += 1
                await steward.look(sample_of(free_mib))

        await pass_time(60, free_mib=200)
        assert budgets == []
        await pass_time(20, free_mib=10)
        assert codes(statuses)[-1] == "replan_failed"
        assert client.present_load == large
        await pass_time(30, free_mib=10)
        assert client.present_load == small
        text, done = await answer(client, ask(TEXT, first, "go on", max_tokens=8))
        assert done.usage.cached_tokens > 0
        await pass_time(300, free_mib=200)
        assert client.present_load == large
        _, done = await answer(client, ask(TEXT, first, "go on", text, "and on", max_tokens=8))
        assert done.usage.cached_tokens > 0
        n_plans = len(budgets)
        await pass_time(300, free_mib=200)
        assert len(budgets) == n_plans == 3
    assert codes(statuses)[1:] == [
        "engine_shrinks",
        "engine_grows",
    ]


async def test_where_ram_runs_short_older_conversations_are_given_up(tiny_moe: Path) -> None:
    clock = Clock()
    async with engine(replace(on_cpu(tiny_moe), cache_ram_bytes=1 << 28)) as (client, statuses):
        for text in (TEXT, f"Now {TEXT}"):
            await answer(client, ask(text, max_tokens=2))
        steward = Steward(client, no_plan, reserve_bytes=600 * MIB, clock=clock)
        for _ in range(60):
            clock.now_s += 1
            await steward.look(sample_of(0, ram_mib=100))
    assert codes(statuses) == ["caches_dropped"]


# The GPU is gone -------------------------------------------------------------------------------------------


async def _answer_while(client: WorkerClient, happens: object) -> list[GenerationEvent]:
    assert callable(happens)
    events: list[GenerationEvent] = []
    async for event in client.generate(ask(TEXT, max_tokens=0, ignore_eos=True)):
        if isinstance(event, Delta) and not any(isinstance(e, Delta) for e in events):
            happens()
        events.append(event)
    return events


async def test_without_its_gpu_the_chat_goes_on_on_the_cpu_where_that_is_allowed(
    tiny_moe: Path, gpu: FakeGpu
) -> None:
    async with engine(on_gpu(tiny_moe, gpu), allow_cpu=True) as (client, statuses):
        events = await _answer_while(client, gpu.kill)
        end = events[-1]
        assert isinstance(end, Failed)
        assert end.code == "device_lost"
        first = "".join(event.text for event in events if isinstance(event, Delta))
        await answer(client, ask(TEXT, first, "go on", max_tokens=4))
        assert devices_of(await client.load()) == {"CPU"}
    assert codes(statuses) == ["gpu_lost"]


async def test_without_its_gpu_the_engine_says_so_and_does_not_try_for_ever(
    tiny_moe: Path, gpu: FakeGpu
) -> None:
    async with engine(on_gpu(tiny_moe, gpu)) as (client, statuses):
        await client.load()
        gpu.kill()
        _, end = await finish(client.generate(ask(TEXT)))
        assert isinstance(end, Failed)
        assert end.code == "device_lost"
        n_told = len(statuses)
        await asyncio.sleep(0.5)
        assert len(statuses) == n_told
        assert client.worker_pid is None
        with pytest.raises(DeviceLost):
            await client.load()
        gpu.restart()
        await answer(client, ask(TEXT, max_tokens=2))
    last_down = [status for status in statuses if isinstance(status, EngineDown)][-1]
    assert last_down.retry_in_s is None


async def test_a_gpu_that_hangs_is_given_up_too(tiny_moe: Path, gpu: FakeGpu) -> None:
    async with engine(on_gpu(tiny_moe, gpu), allow_cpu=True, hang_timeout_s=1.0) as (client, statuses):
        events = await _answer_while(client, gpu.pause)
        end = events[-1]
        assert isinstance(end, Failed)
        assert end.code in ("engine_hung", "device_lost")
        await answer(client, ask(TEXT, max_tokens=4))
        assert devices_of(await client.load()) == {"CPU"}
    assert "gpu_lost" in codes(statuses)


async def test_what_the_driver_says_of_a_lost_gpu_counts_although_the_engine_still_finds_it(
    tiny_moe: Path, gpu: FakeGpu
) -> None:
    async with engine(on_gpu(tiny_moe, gpu), allow_cpu=True) as (client, statuses):
        await client.load()
        steward = Steward(client, no_plan, reserve_bytes=MIB)
        lost = GpuSample(index=0, name=gpu.name, total_bytes=0, free_bytes=0, lost=True)
        for _ in range(3):
            await steward.look(sample_of(256, gpu=lost))
        await answer(client, ask(TEXT, max_tokens=2))
        assert devices_of(await client.load()) == {"CPU"}
    assert codes(statuses) == ["gpu_lost"]


async def test_a_plan_for_what_is_left_is_asked_for_when_the_gpu_is_lost(
    tiny_moe: Path, gpu: FakeGpu
) -> None:
    planned = replace(on_cpu(tiny_moe), n_ubatch=64)

    async def replan() -> tuple[Load, Sequence[Load]]:
        return planned, ()

    client = WorkerClient(on_gpu(tiny_moe, gpu), replan=replan, allow_cpu=True, restarts=TIRELESS)
    try:
        await client.load()
        gpu.kill()
        await answer(client, ask(TEXT, max_tokens=2))
        assert client.present_load == planned
    finally:
        await client.aclose()

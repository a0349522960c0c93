"""What every `EngineClient` promises, asked of the real engine and of the scripted one for UI tests."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

import pytest

from edgeapp.errors import EdgeappError, LoadFailed, ModelError
from edgeapp.protocol import Delta, Done, Failed, Load, Loaded, Progress
from edgeapp.runtime.client import Released
from tests.runtime.engines import answer, ask, finish, real_engine
from tests.scripted_engine import Hold, ScriptedEngine, Step, deltas

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from edgeapp.runtime.client import EngineClient, GenerationEvent, StatusEvent


class Open(Protocol):
    def __call__(self, *, broken: bool = False) -> AbstractAsyncContextManager[EngineClient]: ...


@pytest.fixture(params=["real", "scripted"])
def engine(request: pytest.FixtureRequest, tiny_moe: Path, tmp_path: Path) -> Open:
    """Open an engine that answers for long, or one whose model is broken."""

    @asynccontextmanager
    async def real(*, broken: bool = False) -> AsyncIterator[EngineClient]:
        model = tmp_path / "broken.gguf"
        model.write_bytes(tiny_moe.read_bytes()[:5000])
        async with real_engine(model if broken else tiny_moe) as client:
            yield client

    @asynccontextmanager
    async def scripted(*, broken: bool = False) -> AsyncIterator[EngineClient]:
        error = LoadFailed("The model is broken.", hint="Get another.") if broken else None
        first: list[Step] = [*deltas("a", "b", "c"), Hold()]
        client = ScriptedEngine(
            load_error=error, answers=[first, first], load_steps=[Progress(phase="weights", fraction=0.5)]
        )
        try:
            yield client
        finally:
            await client.aclose()

    return real if request.param == "real" else scripted


async def test_load_tells_progress_and_then_that_it_is_loaded(engine: Open) -> None:
    events: list[StatusEvent] = []
    async with engine() as client:
        client.watch(events.append)
        loaded = await client.load()
        assert await client.load() == loaded
    kinds = [type(event) for event in events]
    assert Progress in kinds
    assert kinds.count(Loaded) == 1
    assert loaded.n_ctx > 0


async def test_a_generation_loads_by_itself_and_ends_with_exactly_one_end(engine: Open) -> None:
    async with engine() as client:
        generation = client.generate(ask("hello", max_tokens=5))
        events = []
        async for event in generation:
            events.append(event)
            if isinstance(event, Delta):
                generation.cancel()
    assert [isinstance(e, Done | Failed) for e in events].count(True) == 1
    assert isinstance(events[-1], Done)


async def test_deltas_count_the_tokens_up(engine: Open) -> None:
    async with engine() as client:
        generation = client.generate(ask("hello", max_tokens=0))
        counts = []
        async for event in generation:
            if isinstance(event, Delta):
                counts.append(event.n_tokens)
                if len(counts) == 3:
                    generation.cancel()
    assert counts == sorted(set(counts))


async def test_a_cancelled_generation_ends_as_cancelled_and_the_next_one_works(engine: Open) -> None:
    async with engine() as client:
        for _ in range(2):
            generation = client.generate(ask("tell me everything", max_tokens=0))
            async for event in generation:
                if isinstance(event, Delta):
                    generation.cancel()
            assert isinstance(event, Done)
            assert event.finish_reason == "cancelled"


async def test_a_generation_cancelled_before_it_starts_ends_as_cancelled(engine: Open) -> None:
    async with engine() as client:
        generation = client.generate(ask("hello", max_tokens=0))
        generation.cancel()
        text, end = await finish(generation)
        assert isinstance(end, Done)
        assert (text, end.finish_reason) == ("", "cancelled")


async def test_a_model_that_cannot_be_loaded_is_an_error_of_load(engine: Open) -> None:
    async with engine(broken=True) as client:
        with pytest.raises(EdgeappError) as caught:
            await client.load()
    assert isinstance(caught.value, LoadFailed | ModelError)
    assert caught.value.hint


async def test_a_model_that_cannot_be_loaded_is_a_failed_generation(engine: Open) -> None:
    async with engine(broken=True) as client:
        text, end = await finish(client.generate(ask("hello")))
    assert isinstance(end, Failed)
    assert text == ""
    assert end.message


async def test_closing_twice_is_harmless(engine: Open) -> None:
    async with engine() as client:
        await client.load()
        await client.aclose()
        await client.aclose()


async def test_a_reader_that_goes_away_does_not_block_the_next_one(engine: Open) -> None:
    async with engine() as client:
        stream = aiter(client.generate(ask("tell me everything", max_tokens=0)))
        while not isinstance(await anext(stream), Delta):
            pass
        await stream.aclose()  # type: ignore[attr-defined] # both are async generators
        second = client.generate(ask("hello", max_tokens=0))
        async for event in second:
            if isinstance(event, Delta):
                second.cancel()
        assert isinstance(event, Done)
        await answer(client, ask("and again", max_tokens=1))


async def test_a_release_is_told_once_and_the_next_request_loads_again(engine: Open) -> None:
    events: list[StatusEvent] = []
    async with engine() as client:
        await client.load()
        assert not client.is_released
        client.watch(events.append)
        await client.release()
        await client.release()
        assert client.is_released
        assert [type(event) for event in events] == [Released]
        generation = client.generate(ask("hello", max_tokens=0))
        async for event in generation:
            if isinstance(event, Delta):
                generation.cancel()
        assert isinstance(event, Done)
        assert not client.is_released
    assert [type(event) for event in events].count(Loaded) == 1


async def test_a_release_ends_a_running_answer_as_cancelled(engine: Open) -> None:
    async with engine() as client:
        events: list[GenerationEvent] = []
        async for event in client.generate(ask("tell me everything", max_tokens=0)):
            if isinstance(event, Delta) and not any(isinstance(e, Delta) for e in events):
                await client.release()
            events.append(event)
        end = events[-1]
        assert isinstance(end, Done)
        assert end.finish_reason == "cancelled"
        assert client.is_released


async def test_a_closed_engine_cannot_be_released(engine: Open) -> None:
    events: list[StatusEvent] = []
    async with engine() as client:
        await client.load()
        client.watch(events.append)
        await client.aclose()
        await client.release()
    assert not any(isinstance(event, Released) for event in events)


async def test_a_change_loads_anew_and_the_next_answer_comes(engine: Open, tiny_moe: Path) -> None:
    events: list[StatusEvent] = []
    async with engine() as client:
        await client.load()
        client.watch(events.append)
        loaded = await client.change(Load(path=str(tiny_moe), n_ctx=256, n_threads=1))
        assert await client.load() == loaded
        generation = client.generate(ask("hello", max_tokens=0))
        async for event in generation:
            if isinstance(event, Delta):
                generation.cancel()
        assert isinstance(event, Done)
    assert [type(event) for event in events].count(Loaded) == 1
    assert not any(isinstance(event, Released) for event in events)

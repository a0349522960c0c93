"""Many answers at once: each is what it would be alone, nobody waits for ever, nothing is lost."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import pytest

from edgeapp.protocol import Delta, Done, Drafting
from tests.runtime.engines import answer, ask, finish, real_engine

if TYPE_CHECKING:
    from pathlib import Path

    from edgeapp.protocol import Generate, TokenLogprob
    from edgeapp.runtime.worker_client import WorkerClient

QUESTIONS = (
    "Tell me a story",
    "What is a cat?",
    "Count to twenty",
    "Why is the sky blue?",
    "Name three colours",
    "Write a poem about rain",
    "What is 7 times 6?",
    "Say hello in French",
)
LONG = "word and another word " * 60


PLAIN = Drafting(mode="off")
"""Drafts change how many tokens are computed together, and with it the last digits of the logits."""


NEAR_TIE = 0.25
"""Log probabilities this close may change places when other tokens are computed in the same batch: sums are
then added up in another order, and quantised activations round differently."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """An answer's tokens, and how far each was ahead of the second best."""

    tokens: tuple[int, ...]
    leads: tuple[float, ...]
    end: Done


async def written(client: WorkerClient, request: Generate) -> Written:
    probable: list[TokenLogprob] = []
    async for event in client.generate(msgspec.structs.replace(request, logprobs=2)):
        if isinstance(event, Delta):
            probable += event.logprobs
    assert isinstance(event, Done), event
    return Written(
        tokens=tuple(one.token for one in probable),
        leads=tuple(one.top[0].logprob - one.top[1].logprob for one in probable),
        end=event,
    )


async def alone(client: WorkerClient, requests: list[Generate]) -> list[Written]:
    return [await written(client, request) for request in requests]


async def together(client: WorkerClient, requests: list[Generate]) -> list[Written]:
    return list(await asyncio.gather(*(written(client, request) for request in requests)))


def assert_same(batched: list[Written], single: list[Written]) -> None:
    """Compare up to the first near tie, behind which two right answers may go on differently."""
    for ours, expected in zip(batched, single, strict=True):
        pairs = zip(ours.tokens, expected.tokens, strict=False)
        at = next((n for n, (a, b) in enumerate(pairs) if a != b), None)
        if at is None:
            assert len(ours.tokens) == len(expected.tokens)
        else:
            assert expected.leads[at] < NEAR_TIE, (at, ours.tokens, expected.tokens)


@pytest.mark.parametrize("model", ["tiny_moe", "demo_model"])
async def test_eight_interleaved_answers_are_what_each_is_alone(
    model: str, request: pytest.FixtureRequest
) -> None:
    requests = [ask(question, max_tokens=12 + 4 * n) for n, question in enumerate(QUESTIONS)]
    async with real_engine(request.getfixturevalue(model), n_parallel=8, n_kv=2048) as client:
        batched = await together(client, requests)
        single = await alone(client, requests)
    assert_same(batched, single)
    assert len({one.tokens for one in single}) == len(single)


async def test_with_a_stream_for_each_answers_are_the_same(demo_model: Path) -> None:
    requests = [ask(question, max_tokens=24) for question in QUESTIONS]
    async with real_engine(demo_model, n_ctx=256, n_parallel=6, n_kv=6 * 256) as client:
        assert_same(await together(client, requests), await alone(client, requests))


async def test_a_shared_system_prompt_is_copied_between_streams(demo_model: Path) -> None:
    system = "You are a careful inspector of turbine blades. " * 4
    requests = [ask(question, system=system, max_tokens=16) for question in QUESTIONS[:6]]
    async with real_engine(demo_model, n_ctx=512, n_parallel=6, n_kv=6 * 512) as client:
        batched = await together(client, requests)
    assert sorted(one.end.usage.cached_tokens > 40 for one in batched) == [False, *[True] * 5]
    async with real_engine(demo_model, n_ctx=512) as client:
        assert_same(batched, await alone(client, requests))


async def test_a_long_prompt_does_not_freeze_an_answer_in_progress(demo_model: Path) -> None:
    order: list[str] = []

    async def follow(name: str, request: Generate) -> None:
        async for event in client.generate(request):
            order.append(f"{name} {type(event).__name__}")  # noqa: PERF401 - noted as they come

    async with real_engine(demo_model, n_ctx=2048, n_parallel=2, n_kv=4096) as client:
        chat = asyncio.create_task(follow("chat", ask("Tell me a story", max_tokens=200, ignore_eos=True)))
        while "chat Delta" not in order:
            await asyncio.sleep(0.01)
        await follow("reader", ask(LONG, max_tokens=1))
        chat.cancel()
        await asyncio.gather(chat, return_exceptions=True)
    reading = order[order.index("reader Progress") :]
    assert reading.count("reader Progress") >= 2
    assert "chat Delta" in reading


async def test_cancelling_one_answer_leaves_the_others_alone(tiny_moe: Path) -> None:
    others = [ask(question, max_tokens=60) for question in QUESTIONS[:3]]
    async with real_engine(tiny_moe, n_parallel=4, n_kv=2048) as client:
        unwanted = client.generate(ask("Talk", max_tokens=0, ignore_eos=True))

        async def cancel_soon() -> Done:
            async for event in unwanted:
                if isinstance(event, Delta):
                    unwanted.cancel()
            assert isinstance(event, Done)
            return event

        cancelling = asyncio.create_task(cancel_soon())
        batched = await together(client, others)
        assert (await cancelling).finish_reason == "cancelled"
        assert_same(batched, await alone(client, others))


async def test_more_requests_than_slots_wait_their_turn(tiny_moe: Path) -> None:
    requests = [ask(question, max_tokens=10) for question in QUESTIONS]
    async with real_engine(tiny_moe, n_parallel=2, n_kv=1024) as client:
        batched = await together(client, requests)
        assert_same(batched, await alone(client, requests))
    assert max(one.end.timings.queue_s for one in batched) > 0


async def test_a_request_cancelled_in_the_queue_ends_at_once(tiny_moe: Path) -> None:
    async with real_engine(tiny_moe, n_parallel=1, n_ctx=2048) as client:
        running = client.generate(ask("Talk", max_tokens=0, ignore_eos=True))
        talking = asyncio.create_task(finish(running))
        await client.load()
        waiting = client.generate(ask("Hello"))
        ending = asyncio.create_task(finish(waiting))
        await asyncio.sleep(0.1)
        waiting.cancel()
        text, end = await ending
        assert isinstance(end, Done)
        assert (text, end.finish_reason) == ("", "cancelled")
        assert not talking.done()
        running.cancel()
        await talking


async def test_an_interactive_request_takes_the_slot_of_a_batch_request(demo_model: Path) -> None:
    slow = ask("Write a book", max_tokens=120, ignore_eos=True, priority="batch", drafting=PLAIN)
    quick = ask("Hello", max_tokens=10, drafting=PLAIN)
    finished: list[str] = []

    async def run(name: str, request: Generate) -> Written:
        answered = await written(client, request)
        finished.append(name)
        return answered

    async with real_engine(demo_model, n_parallel=1) as client:
        batch = asyncio.create_task(run("batch", slow))
        await asyncio.sleep(0.2)
        both = [await run("interactive", quick), await batch]
        assert finished == ["interactive", "batch"]
        assert_same(both, await alone(client, [quick, slow]))


async def test_a_full_kv_cache_makes_answers_wait_and_loses_none(demo_model: Path) -> None:
    """Four answers of 80 tokens do not fit into 256 cells."""
    requests = [ask(question, max_tokens=45, ignore_eos=True, drafting=PLAIN) for question in QUESTIONS[:4]]
    async with real_engine(demo_model, n_parallel=4, n_ctx=256, n_kv=256) as client:
        batched = await together(client, requests)
        single = await alone(client, requests)
    assert [len(one.tokens) for one in batched] == [45] * 4
    assert_same(batched, single)


async def test_a_shared_system_prompt_is_computed_once(tiny_moe: Path) -> None:
    system = "You are a careful inspector of turbine blades. " * 4
    requests = [ask(question, system=system) for question in QUESTIONS[:4]]
    async with real_engine(tiny_moe, n_parallel=4, n_kv=2048) as client:
        first = await written(client, requests[0])
        others = await together(client, requests[1:])
    assert first.end.usage.cached_tokens == 0
    assert all(one.end.usage.cached_tokens > 40 for one in others)
    async with real_engine(tiny_moe, n_parallel=4, n_kv=2048) as client:
        assert_same(others, await alone(client, requests[1:]))


async def test_requests_that_arrive_together_share_the_prefix_they_have_in_common(tiny_moe: Path) -> None:
    system = "You are a careful inspector of turbine blades. " * 4
    requests = [ask(question, system=system) for question in QUESTIONS[:4]]
    async with real_engine(tiny_moe, n_parallel=4, n_kv=2048, n_ubatch=64) as client:
        ends = await asyncio.gather(*(answer(client, request) for request in requests))
    assert sorted(end.usage.cached_tokens > 40 for _, end in ends) == [False, True, True, True]


async def test_a_conversation_that_had_to_leave_comes_back_from_host_memory(tiny_moe: Path) -> None:
    async with real_engine(tiny_moe, n_ctx=512, cache_ram_bytes=64 << 20) as client:
        first, one = await answer(client, ask(LONG[:900], max_tokens=30))
        for question in QUESTIONS[:3]:
            await answer(client, ask(question + LONG[:900], max_tokens=30))
        again, two = await answer(client, ask(LONG[:900], first, "go on", max_tokens=20))
    assert two.usage.cached_tokens >= one.usage.prompt_tokens
    async with real_engine(tiny_moe, n_ctx=512) as client:
        await answer(client, ask(LONG[:900], max_tokens=30))
        uninterrupted, _ = await answer(client, ask(LONG[:900], first, "go on", max_tokens=20))
    assert again == uninterrupted


@pytest.mark.parametrize("model", ["tiny_moe", "demo_model"])
async def test_a_preset_prefix_is_there_at_the_second_start(
    model: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    path = request.getfixturevalue(model)
    system = "You are a careful inspector of turbine blades. " * 8
    texts = []
    for question, expected in (("Hello", False), ("What do you see?", True)):
        wanted = ask(question, system=system, n_prefix_messages=1, max_tokens=12)
        async with real_engine(path, prefix_folder=str(tmp_path)) as client:
            text, end = await answer(client, wanted)
            texts.append(text)
            assert (end.usage.cached_tokens > 60) == expected
    async with real_engine(path) as client:
        assert texts[1] == (await answer(client, ask("What do you see?", system=system, max_tokens=12)))[0]


async def test_a_damaged_prefix_file_is_computed_again(tiny_moe: Path, tmp_path: Path) -> None:
    system = "You are a careful inspector of turbine blades. " * 8
    wanted = ask("Hello", system=system, n_prefix_messages=1, max_tokens=12)
    async with real_engine(tiny_moe, prefix_folder=str(tmp_path)) as client:
        fresh, _ = await answer(client, wanted)
    (file,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)
    async with real_engine(tiny_moe, prefix_folder=str(tmp_path)) as client:
        text, end = await answer(client, wanted)
    assert end.usage.cached_tokens == 0
    assert text == fresh


async def test_a_text_is_continued_without_a_template(tiny_moe: Path) -> None:
    async with real_engine(tiny_moe) as client:
        request = ask(max_tokens=8)
        _, chat = await answer(client, ask("Once upon a time", max_tokens=8))
        _, end = await answer(client, msgspec.structs.replace(request, prompt="Once upon a time"))
    assert end.usage.prompt_tokens < chat.usage.prompt_tokens

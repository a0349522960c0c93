"""What a request can ask for beside an answer, through the client and the real engine."""

from __future__ import annotations

import asyncio
import json
import math
from typing import TYPE_CHECKING

import msgspec
import pytest

from edgeapp.protocol import (
    AdapterUse,
    Delta,
    Done,
    ExpertUsage,
    Failed,
    Grammar,
    LiveSet,
    LogitBias,
    Sampling,
    SetLive,
    Tool,
    ToolCallDelta,
)
from edgeapp.runtime.asking import load_adapter, unload_adapter
from tests.runtime.engines import answer, ask, finish, real_engine
from tests.tiny_lora import write_tiny_lora

if TYPE_CHECKING:
    from pathlib import Path

    from edgeapp.protocol import Generate
    from edgeapp.runtime.client import GenerationEvent, StatusEvent
    from edgeapp.runtime.worker_client import WorkerClient

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
WEATHER = Tool(
    name="weather",
    description="Tell the weather",
    parameters=msgspec.Raw(
        b'{"type":"object","properties":{"city":{"type":"string","maxLength":20}},"required":["city"]}'
    ),
)


async def events_of(client: WorkerClient, request: Generate) -> list[GenerationEvent]:
    return [event async for event in client.generate(request)]


@pytest.mark.parametrize("model", ["tiny_moe", "demo_model"])
async def test_an_answer_obeys_its_schema_and_ends_there(model: str, request: pytest.FixtureRequest) -> None:
    schema = Grammar(kind="json_schema", source=json.dumps(PERSON))
    async with real_engine(request.getfixturevalue(model)) as client:
        for sampling in (Sampling(temp=0), Sampling(temp=1.5, seed=2)):
            text, end = await answer(
                client, ask("Make up a person", grammar=schema, sampling=sampling, max_tokens=200)
            )
            assert set(json.loads(text)) == {"name", "age"}
            assert end.finish_reason == "stop"


async def test_a_grammar_that_cannot_be_is_a_failed_request_and_no_crash(tiny_moe: Path) -> None:
    deep = Grammar(kind="gbnf", source="root ::= " + "(" * 60_000 + '"a"' + ")" * 60_000)
    async with real_engine(tiny_moe) as client:
        await client.load()
        pid = client.worker_pid
        _, end = await finish(client.generate(ask("Hello", grammar=deep)))
        assert isinstance(end, Failed)
        assert end.code == "grammar"
        await answer(client, ask("Hello"))
        assert client.worker_pid == pid


async def test_a_call_that_is_required_is_made(demo_model: Path) -> None:
    request = ask("Weather in Rome?", tools=(WEATHER,), tool_choice="required", max_tokens=80)
    async with real_engine(demo_model, n_ctx=1024) as client:
        events = await events_of(client, request)
    calls = [event for event in events if isinstance(event, ToolCallDelta)]
    assert calls[0].name == "weather"
    assert calls[0].call_id
    assert "city" in json.loads("".join(call.arguments for call in calls))
    assert [event.text for event in events if isinstance(event, Delta)] == []
    assert isinstance(events[-1], Done)
    assert events[-1].finish_reason == "tool_calls"


async def test_log_probabilities_come_with_every_token(tiny_moe: Path) -> None:
    async with real_engine(tiny_moe) as client:
        events = await events_of(client, ask("Hello", max_tokens=6, logprobs=3))
    tokens = [token for event in events if isinstance(event, Delta) for token in event.logprobs]
    assert len(tokens) == 6
    for token in tokens:
        assert len(token.top) == 3
        assert token.logprob == pytest.approx(token.top[0].logprob)  # greedy
        assert math.fsum(math.exp(one.logprob) for one in token.top) < 1


async def test_a_banned_token_never_comes(tiny_moe: Path) -> None:
    async with real_engine(tiny_moe) as client:
        events = await events_of(client, ask("Hello", max_tokens=4, logprobs=0))
        first = next(event for event in events if isinstance(event, Delta)).logprobs[0].token
        bias = Sampling(temp=0, logit_bias=(LogitBias(token=first, bias=-100),))
        again = await events_of(client, ask("Hello", max_tokens=20, logprobs=0, sampling=bias))
    tokens = [token.token for event in again if isinstance(event, Delta) for token in event.logprobs]
    assert first not in tokens


async def test_answers_with_different_adapters_run_side_by_side(tiny_moe: Path, tmp_path: Path) -> None:
    write_tiny_lora(tmp_path / "a.gguf", tiny_moe, seed=1)
    write_tiny_lora(tmp_path / "b.gguf", tiny_moe, seed=2)
    uses = [(), (AdapterUse(name="a"),), (AdapterUse(name="b"),)]
    requests = [ask("Hello", max_tokens=12, adapters=use) for use in uses]
    async with real_engine(tiny_moe, n_parallel=3, n_kv=1024) as client:
        for name in ("a", "b"):
            await load_adapter(client, name, tmp_path / f"{name}.gguf")
        single = [(await answer(client, request))[0] for request in requests]
        together = await asyncio.gather(*(answer(client, request) for request in requests))
        await unload_adapter(client, "a")
        _, end = await finish(client.generate(requests[1]))
    assert len(set(single)) == 3
    assert [text for text, _ in together] == single
    assert isinstance(end, Failed)


async def test_the_use_of_experts_is_reported_while_an_answer_is_written(tiny_moe: Path) -> None:
    told: list[StatusEvent] = []
    async with real_engine(tiny_moe, n_ctx=2048, watch_experts=True) as client:
        client.watch(told.append)
        await client.ask(SetLive(expert_usage=True), LiveSet)
        await answer(client, ask("Hello", max_tokens=900, ignore_eos=True))
    usage = [event for event in told if isinstance(event, ExpertUsage)]
    assert usage
    loaded = await _loaded(tiny_moe)
    for event in usage:
        # The last layer sees only tokens whose logits are wanted.
        assert sum(event.layers[0].counts) == event.n_tokens * loaded


async def _loaded(model: Path) -> int:
    async with real_engine(model) as client:
        return (await client.load()).n_expert_used

"""Starts the real engine on a model, for the tests that need one."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from edgeapp.protocol import Delta, Done, Failed, Generate, Load, Message, Sampling
from edgeapp.runtime.worker_client import WorkerClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from edgeapp.runtime.client import EngineClient, Generation

GREEDY = Sampling(temp=0)


@asynccontextmanager
async def real_engine(
    model: Path, *, n_ctx: int = 512, n_ubatch: int = 512, hang_timeout_s: float = 60.0
) -> AsyncIterator[WorkerClient]:
    load = Load(id=0, path=str(model), n_ctx=n_ctx, n_threads=1, n_ubatch=n_ubatch)
    client = WorkerClient(load, hang_timeout_s=hang_timeout_s)
    try:
        yield client
    finally:
        await client.aclose()


def ask(
    *texts: str, max_tokens: int = 8, sampling: Sampling = GREEDY, stop: tuple[str, ...] = ()
) -> Generate:
    """A conversation that starts with the user and alternates."""
    messages = tuple(
        Message(role="assistant" if n % 2 else "user", content=text) for n, text in enumerate(texts)
    )
    return Generate(messages=messages, sampling=sampling, max_tokens=max_tokens, stop=stop)


async def finish(generation: Generation) -> tuple[str, Done | Failed]:
    """Return the whole text and how it ended."""
    text = ""
    async for event in generation:
        match event:
            case Delta():
                text += event.text
            case Done() | Failed():
                return text, event
            case _:
                pass
    raise AssertionError("the generation ended without Done or Failed")


async def answer(client: EngineClient, request: Generate) -> tuple[str, Done]:
    """Return text and `Done`; a `Failed` fails the test."""
    text, end = await finish(client.generate(request))
    assert isinstance(end, Done), end
    return text, end

"""Starts the real engine on a model, for the tests that need one."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from edgeapp.protocol import Delta, Done, Failed, Generate, Load, Message, Sampling
from edgeapp.runtime.quarantine import RestartPolicy
from edgeapp.runtime.worker_client import WorkerClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from edgeapp.runtime.client import EngineClient, Generation

GREEDY = Sampling(temp=0)
TIRELESS = RestartPolicy(backoff_s=(0.0,), max_deaths=1000)
"""Starts again at once, however often."""


@asynccontextmanager
async def real_engine(
    model: Path,
    *,
    n_ctx: int = 512,
    n_ubatch: int = 512,
    hang_timeout_s: float = 60.0,
    restarts: RestartPolicy | None = None,
    **options: Any,
) -> AsyncIterator[WorkerClient]:
    """`options` are further fields of `Load`."""
    load = Load(path=str(model), n_ctx=n_ctx, n_threads=1, n_ubatch=n_ubatch, **options)
    client = WorkerClient(load, hang_timeout_s=hang_timeout_s, restarts=restarts)
    try:
        yield client
    finally:
        await client.aclose()


def ask(
    *texts: str,
    max_tokens: int = 8,
    sampling: Sampling = GREEDY,
    stop: tuple[str, ...] = (),
    system: str = "",
    **options: Any,
) -> Generate:
    """A conversation that starts with the user and alternates; `options` are further fields of `Generate`."""
    messages = tuple(
        Message(role="assistant" if n % 2 else "user", content=text) for n, text in enumerate(texts)
    )
    if system:
        messages = (Message(role="system", content=system), *messages)
    return Generate(messages=messages, sampling=sampling, max_tokens=max_tokens, stop=stop, **options)


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

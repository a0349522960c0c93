from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from edgeapp.monitor import running
from edgeapp.monitor.running import RunningEngine, read_running
from edgeapp.protocol import Generate, Load, Message, Sampling
from edgeapp.runtime.worker_client import WorkerClient
from edgeapp.session.publishing import follow

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from edgeapp.monitor.status import EngineStatus

_QUESTION = Generate(
    messages=(Message(role="user", content="Hello"),), sampling=Sampling(temp=0.0), max_tokens=8
)


async def published() -> EngineStatus:
    await asyncio.sleep(0.05)
    (status,) = read_running()
    return status


async def test_a_real_engine_is_seen_loaded_answering_released_and_gone(
    tiny_moe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "PERIOD_S", 0.01)
    client = WorkerClient(Load(path=str(tiny_moe), n_ctx=512, n_threads=1))
    engine = RunningEngine(front_end="chat", model="tiny")
    follow(client, engine)
    try:
        await client.load()
        loaded = await published()
        async for event in client.generate(_QUESTION):
            engine.observe(event)
        answered = await published()
        await client.release()
        released = await published()
    finally:
        await client.aclose()
        engine.close()

    assert (loaded.state, loaded.n_ctx) == ("ready", 512)
    assert sum(use.weights_bytes for use in loaded.buffers) > 0
    assert (answered.state, answered.n_requests) == ("ready", 1)
    assert answered.n_ctx_used > 0
    assert (released.state, released.buffers) == ("released", ())
    assert read_running() == ()

"""When a worker counts as idle."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from edgeapp.protocol import Cancel, Done, Request
from edgeapp.runtime.exchange import Exchanges

if TYPE_CHECKING:
    import pytest


async def test_a_request_in_between_begins_the_wait_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    exchanges = Exchanges(lambda _request: None)
    n_sleeps = 0

    async def sleep(_seconds: float) -> None:
        nonlocal n_sleeps
        n_sleeps += 1
        if n_sleeps < 3:
            exchanges.open(Done).close()

    monkeypatch.setattr(asyncio, "sleep", sleep)
    await exchanges.idle_for(60.0)
    assert n_sleeps == 3


async def test_a_worker_with_a_request_is_not_idle_until_that_has_ended() -> None:
    exchanges = Exchanges(lambda _request: None)
    exchange = exchanges.open(Done)
    waiting = asyncio.create_task(exchanges.idle_for(0.0))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    exchange.close()
    await waiting


async def test_all_requests_can_be_cancelled_at_once() -> None:
    sent: list[Request] = []
    exchanges = Exchanges(sent.append)
    ids = [exchanges.open(Done).id for _ in range(3)]
    exchanges.cancel_all()
    assert [request.target for request in sent if isinstance(request, Cancel)] == ids

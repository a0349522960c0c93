from __future__ import annotations

import asyncio

from edgeapp.tui.pacing import DecodeRate, PacedText


async def test_pieces_within_one_interval_are_written_together() -> None:
    writes: list[str] = []
    paced = PacedText(writes.append, interval_s=60)
    paced.feed("first")
    await asyncio.sleep(0.01)
    for piece in "abc":
        paced.feed(piece)
        await asyncio.sleep(0)
    assert writes == ["first"]
    paced.finish()
    assert writes == ["first", "abc"]


async def test_text_is_written_even_when_nothing_follows() -> None:
    writes: list[str] = []
    written = asyncio.Event()

    def write(text: str) -> None:
        writes.append(text)
        written.set()

    paced = PacedText(write, interval_s=0.01)
    for piece in ("one", "two"):
        written.clear()
        paced.feed(piece)
        await written.wait()
    assert writes == ["one", "two"]


async def test_finishing_twice_or_with_nothing_left_writes_nothing() -> None:
    writes: list[str] = []
    paced = PacedText(writes.append, interval_s=60)
    paced.finish()
    paced.feed("x")
    paced.finish()
    paced.finish()
    assert writes == ["x"]


def test_the_rate_counts_from_the_first_token_and_reports_now_and_then() -> None:
    rate = DecodeRate(interval_s=0.5)
    assert rate.observe(n_tokens=1, now_s=10.0) is None
    assert rate.observe(n_tokens=10, now_s=10.4) is None
    assert rate.observe(n_tokens=51, now_s=11.0) == 50.0
    assert rate.observe(n_tokens=60, now_s=11.2) is None
    assert rate.observe(n_tokens=41 + 60, now_s=12.0) == 50.0

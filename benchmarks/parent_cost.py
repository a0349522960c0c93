"""What the parent process costs while answers stream: processor seconds a second, without a user interface.

Target: at most 5 % of a core at 200 tokens/s. A worker that only keeps the pace stands for the engine, so the
pace is the same on every machine. One stream is the cheapest case, because tokens that come within 1/15 s are
one event; with sixteen streams every token is an event of its own.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks._engines import machine
from edgeapp.protocol import Delta, Done, Generate, Load
from edgeapp.runtime import supervisor
from edgeapp.runtime.worker_client import WorkerClient

if TYPE_CHECKING:
    from edgeapp.runtime.client import Generation

TOKENS_PER_S = 200
SECONDS = 10
TARGET_SHARE = 0.05


async def main() -> None:
    machine()
    paced = str(Path(__file__).with_name("_paced_worker.py"))
    supervisor.worker_command = lambda: [sys.executable, paced, str(TOKENS_PER_S)]
    print(f"{'streams':>8} {'tokens/s':>9} {'events/s':>9} {'of a core':>10}")
    for n_streams in (1, 4, 16):
        client = WorkerClient(Load(path="", n_ctx=TOKENS_PER_S * SECONDS, n_threads=1))
        try:
            await client.load()
            await _measure(client, n_streams)
        finally:
            await client.aclose()


async def _measure(client: WorkerClient, n_streams: int) -> None:
    request = Generate(prompt="", max_tokens=TOKENS_PER_S * SECONDS // n_streams)
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    counts = await asyncio.gather(*(_read(client.generate(request)) for _ in range(n_streams)))
    wall_s, cpu_s = time.perf_counter() - started_s, time.process_time() - started_cpu_s
    n_tokens, n_events = (sum(column) for column in zip(*counts, strict=True))
    verdict = "" if cpu_s / wall_s <= TARGET_SHARE else f"  MISSED: {TARGET_SHARE:.0%}"
    print(
        f"{n_streams:>8} {n_tokens / wall_s:>9.1f} {n_events / wall_s:>9.1f} {cpu_s / wall_s:>10.2%}{verdict}"
    )


async def _read(generation: Generation) -> tuple[int, int]:
    """Return the tokens and the events of one answer."""
    n_events = 0
    async for event in generation:
        n_events += isinstance(event, Delta)
        if isinstance(event, Done):
            return event.usage.completion_tokens, n_events
    raise AssertionError("the generation did not finish")


if __name__ == "__main__":
    asyncio.run(main())

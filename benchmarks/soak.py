"""Ten thousand short requests to one worker: do memory, open files and unfinished business stay flat?

The model is the tests' tiny MoE, so that requests, not matrices, are what takes the time. Some readers go
away in the middle, and every request is a conversation of its own. The last line says what grew per
thousand requests in the second half: caches fill in the first.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks._engines import machine
from edgeapp.protocol import Generate, Load, Message, Sampling
from edgeapp.runtime.worker_client import WorkerClient
from tests.tiny_moe import write_tiny_moe

N_REQUESTS = 10_000
N_PARALLEL = 4
N_ROWS = 10


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What both processes hold after `n_requests`."""

    n_requests: int
    worker_rss_bytes: int
    parent_rss_bytes: int
    worker_files: int
    parent_files: int
    tasks: int


async def main(n_requests: int) -> None:
    machine()
    with tempfile.TemporaryDirectory() as folder:
        model = write_tiny_moe(Path(folder, "tiny-moe.gguf"))
        load = Load(path=str(model), n_ctx=256, n_threads=1, n_parallel=N_PARALLEL, n_kv=256 * N_PARALLEL)
        client = WorkerClient(load)
        try:
            await _soak(client, n_requests)
        finally:
            await client.aclose()


async def _soak(client: WorkerClient, n_requests: int) -> None:
    await client.load()
    pid = client.worker_pid
    print(
        f"{'requests':>9} {'worker MB':>10} {'parent MB':>10} {'worker files':>13} {'parent files':>13} tasks"
    )
    samples = []
    for row in range(N_ROWS + 1):
        await _ask_many(client, 0 if row == 0 else n_requests // N_ROWS)
        samples.append(_sample(client, row * (n_requests // N_ROWS)))
        _print(samples[-1])
    assert client.worker_pid == pid, "the worker died in between"
    _print_growth(samples[N_ROWS // 2], samples[-1])


async def _ask_many(client: WorkerClient, n_requests: int) -> None:
    numbers = iter(range(n_requests))

    async def reader() -> None:
        for number in numbers:
            await _ask(client, number)

    await asyncio.gather(*(reader() for _ in range(N_PARALLEL)))


async def _ask(client: WorkerClient, number: int) -> None:
    """Read one answer; every fifth reader goes away after the first event."""
    request = Generate(
        messages=(Message(role="user", content=f"Question number {number}, please."),),
        sampling=Sampling(seed=number),
        max_tokens=1 + number % 8,
    )
    stream = aiter(client.generate(request))
    async for _ in stream:
        if number % 5 == 0:
            break
    await stream.aclose()  # type: ignore[attr-defined] # an async generator


def _sample(client: WorkerClient, n_requests: int) -> Sample:
    gc.collect()
    assert client.worker_pid is not None
    worker, parent = psutil.Process(client.worker_pid), psutil.Process()
    return Sample(
        n_requests=n_requests,
        worker_rss_bytes=worker.memory_info().rss,
        parent_rss_bytes=parent.memory_info().rss,
        worker_files=worker.num_fds(),
        parent_files=parent.num_fds(),
        tasks=len(asyncio.all_tasks()),
    )


def _print(sample: Sample) -> None:
    worker_mb, parent_mb = sample.worker_rss_bytes / 1e6, sample.parent_rss_bytes / 1e6
    print(
        f"{sample.n_requests:>9} {worker_mb:>10.2f} {parent_mb:>10.2f}"
        f" {sample.worker_files:>13} {sample.parent_files:>13} {sample.tasks:>5}"
    )


def _print_growth(first: Sample, last: Sample) -> None:
    thousands = (last.n_requests - first.n_requests) / 1000
    worker_kb = (last.worker_rss_bytes - first.worker_rss_bytes) / 1e3 / thousands
    parent_kb = (last.parent_rss_bytes - first.parent_rss_bytes) / 1e3 / thousands
    print(f"growth per 1000 requests: worker {worker_kb:.1f} kB, parent {parent_kb:.1f} kB")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else N_REQUESTS))

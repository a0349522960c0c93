"""Decode speed while other programs use the same cores: our OpenMP spin against libgomp's default.

Endless shell loops stand for a browser or a compiler. Bursts alternate between two workers that differ in
nothing but GOMP_SPINCOUNT. There is no target: the ratio says what the setting is worth.
"""

from __future__ import annotations

import asyncio
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from benchmarks._engines import client, decode_tps, demo_model, machine, n_threads, ratio, row
from edgeapp.protocol import Sampling
from edgeapp.runtime import supervisor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeapp.runtime.worker_client import WorkerClient

N_PAIRS = 3
N_TOKENS = 8  # libgomp's default needs seconds for each
LIBGOMP_DEFAULT = "300000"  # libgomp manual, GOMP_SPINCOUNT, with OMP_WAIT_POLICY undefined


async def main() -> None:
    model, threads = demo_model(), n_threads()
    machine()
    async with client(model, threads) as short:
        supervisor.WORKER_ENVIRONMENT["GOMP_SPINCOUNT"] = LIBGOMP_DEFAULT
        async with client(model, threads) as default:
            for n_busy in range(threads + 1):
                with _busy(n_busy):
                    await _compare(short, default, f"{n_busy} busy loops")


async def _compare(short: WorkerClient, default: WorkerClient, name: str) -> None:
    rates: dict[str, list[float]] = {"short spin": [], "libgomp's default": []}
    for _ in range(N_PAIRS):
        for engine, values in zip((short, default), rates.values(), strict=True):
            values.append((await decode_tps(engine, Sampling(temp=0), n_tokens=N_TOKENS))[0])
    for label, values in rates.items():
        row(f"{name}, {label}", values, "tok/s")
    ratio(f"{name}, short / default", *rates.values())


@contextmanager
def _busy(n_loops: int) -> Iterator[None]:
    loops = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(n_loops)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


if __name__ == "__main__":
    asyncio.run(main())

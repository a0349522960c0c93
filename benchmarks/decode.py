"""Decode speed of our whole path (client → worker → llama.cpp → client) against llama-bench tg128.

Same model, same threads, same number of tokens in the KV cache before, runs in turn, without drafts.
Target: 0.98 or more.

The second table says where the rest goes: short bursts, in turn, against llama_decode with nothing around it,
with libgomp's own spinning at a barrier and with the short one of our workers (benchmarks/busy.py).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from benchmarks._bare_loop import bare_loop
from benchmarks._engines import (
    client,
    decode_tps,
    demo_model,
    llama_bench_tps,
    machine,
    n_threads,
    ratio,
    row,
)
from edgeapp.protocol import Sampling
from edgeapp.runtime import supervisor

if TYPE_CHECKING:
    from pathlib import Path

    from edgeapp.runtime.worker_client import WorkerClient

N_PAIRS = 9
N_BURSTS = 60
N_BURST_TOKENS = 32


async def main() -> None:
    model, threads = demo_model(), n_threads()
    machine()
    greedy: list[float] = []
    sampled: list[float] = []
    bench: list[float] = []
    async with client(model, threads) as engine:
        _, n_prompt = await decode_tps(engine, Sampling(temp=0))
        for number in range(N_PAIRS):
            # Each goes first as often as the others: whoever comes after a pause may be faster.
            for turn in range(number, number + 3):
                match turn % 3:
                    case 0:
                        bench.append(llama_bench_tps(model, threads, depth=n_prompt))
                    case 1:
                        greedy.append((await decode_tps(engine, Sampling(temp=0)))[0])
                    case _:
                        sampled.append((await decode_tps(engine, Sampling()))[0])
        rates = await _bursts(engine, model, threads, n_prompt)
    row(f"llama-bench tg128 @ d{n_prompt}", bench, "tok/s")
    row("edgeapp, greedy", greedy, "tok/s")
    row("edgeapp, temperature 0.8, top-k 40", sampled, "tok/s")
    ratio("greedy / llama-bench", greedy, bench)
    ratio("sampled / llama-bench", sampled, bench)
    print(f"{N_BURSTS} bursts of {N_BURST_TOKENS} tokens each")
    for name, values in rates.items():
        row(name, values, "tok/s")
        ratio(f"{name} / bare", values, rates["bare llama_decode"])


async def _bursts(engine: WorkerClient, model: Path, threads: int, n_prompt: int) -> dict[str, list[float]]:
    short = {"GOMP_SPINCOUNT": supervisor.WORKER_ENVIRONMENT["GOMP_SPINCOUNT"]}
    rates: dict[str, list[float]] = {"bare llama_decode": [], "bare, short spin": [], "edgeapp, greedy": []}
    with (
        bare_loop(model, threads, depth=n_prompt, environment={}) as bare,
        bare_loop(model, threads, depth=n_prompt, environment=short) as bare_short,
    ):
        for _ in range(N_BURSTS):
            rates["bare llama_decode"].append(bare(N_BURST_TOKENS))
            rates["bare, short spin"].append(bare_short(N_BURST_TOKENS))
            rates["edgeapp, greedy"].append(
                (await decode_tps(engine, Sampling(temp=0), n_tokens=N_BURST_TOKENS))[0]
            )
    return rates


if __name__ == "__main__":
    asyncio.run(main())

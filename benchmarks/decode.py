"""Decode speed of our whole path (client → worker → llama.cpp → client) against llama-bench tg128.

Same model, same threads, same number of tokens in the KV cache before, runs in turn, without drafts.
Target: 0.98 or more.
"""

from __future__ import annotations

import asyncio

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

N_PAIRS = 9


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
    row(f"llama-bench tg128 @ d{n_prompt}", bench, "tok/s")
    row("edgeapp, greedy", greedy, "tok/s")
    row("edgeapp, temperature 0.8, top-k 40", sampled, "tok/s")
    ratio("greedy / llama-bench", greedy, bench)
    ratio("sampled / llama-bench", sampled, bench)


if __name__ == "__main__":
    asyncio.run(main())

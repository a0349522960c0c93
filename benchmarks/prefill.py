"""Reading a long prompt, against llama-bench pp: same model, threads and number of tokens, alternating runs.

Target: 0.98 or more.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
from typing import TYPE_CHECKING

from benchmarks._engines import client, demo_model, machine, n_threads, peer, ratio, row
from benchmarks.parallel import WORDS
from edgeapp.protocol import Done, Generate, Sampling

if TYPE_CHECKING:
    from pathlib import Path

    from edgeapp.runtime.worker_client import WorkerClient

N_PAIRS = 5
N_WORDS = 900


async def ours(engine: WorkerClient, *, seed: int) -> tuple[float, int]:
    """Return tokens/s and tokens of a prompt that nothing is known of."""
    draw = random.Random(seed)  # noqa: S311 - a benchmark's filler
    prompt = f"{seed} " + " ".join(draw.choices(WORDS, k=N_WORDS))
    request = Generate(prompt=prompt, sampling=Sampling(temp=0), max_tokens=1)
    async for event in engine.generate(request):
        if isinstance(event, Done):
            return event.timings.prompt_tps, event.usage.prompt_tokens - event.usage.cached_tokens
    raise AssertionError("the answer did not end")


def theirs(model: Path, threads: int, n_prompt: int) -> float:
    command = [
        str(peer("llama-bench")), "-m", str(model), "-t", str(threads), "-p", str(n_prompt), "-n", "0",
        "-r", "1", "-o", "json",
    ]  # fmt: skip
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(json.loads(printed)[0]["avg_ts"])


async def main() -> None:
    model, threads = demo_model(), n_threads()
    machine()
    our_tps: list[float] = []
    their_tps: list[float] = []
    async with client(model, threads, n_ctx=2048) as engine:
        await ours(engine, seed=-1)
        for seed in range(N_PAIRS):
            tps, n_prompt = await ours(engine, seed=seed)
            our_tps.append(tps)
            their_tps.append(theirs(model, threads, n_prompt))
    row(f"llama-bench pp{n_prompt}", their_tps, "tok/s")
    row("edgeapp", our_tps, "tok/s")
    ratio("edgeapp / llama-bench", our_tps, their_tps)


if __name__ == "__main__":
    asyncio.run(main())

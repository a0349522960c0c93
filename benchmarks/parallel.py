"""1, 4, 8 and 16 chats at once against `llama-server -np N`: total tokens/s and 95th percentile of TTFT.

Same model, threads, prompts and context per chat, greedy, alternating runs. All chats of a run begin at the
same moment, every run with prompts of its own. Two kinds: nothing in common, and one system prompt for all,
as a team's or an agent's chats have. Targets: 1.0 or more for both figures.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks._engines import client, demo_model, machine, n_threads, ratio, row
from benchmarks._llama_server import chat, llama_server
from edgeapp.protocol import Delta, Done, Generate, Message, Sampling

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from edgeapp.runtime.worker_client import WorkerClient

N_CHATS = (1, 4, 8, 16)
N_RUNS = 3
N_GENERATED = 64
N_CTX = 1024
WORDS = (
    *("ship", "harbour", "winter", "engine", "garden", "letter", "river", "stone", "window", "market"),
    *("valley", "copper", "bridge", "kitchen", "signal", "forest", "lantern", "captain", "blade", "turbine"),
    *("crack", "surface", "inspection", "report", "morning", "planet", "number", "colour", "paper", "road"),
)


@dataclass(frozen=True, kw_only=True)
class Run:
    """`n_tokens` of all chats in `wall_s`, and the time to each chat's first token."""

    n_tokens: int
    wall_s: float
    ttft_s: tuple[float, ...]

    @property
    def tps(self) -> float:
        return self.n_tokens / self.wall_s

    @property
    def ttft_p95_s(self) -> float:
        return sorted(self.ttft_s)[max(0, round(0.95 * len(self.ttft_s)) - 1)]


def prompts(n_chats: int, *, seed: int, shared: bool) -> list[tuple[Message, ...]]:
    """Return conversations of about 120 tokens of their own; `shared` puts 250 in common before them."""
    draw = random.Random(seed)  # noqa: S311 - a benchmark's filler
    system = f"Run {seed}. " + " ".join(draw.choices(WORDS, k=200)) if shared else ""
    begin = (Message(role="system", content=system),) if shared else ()
    return [
        (*begin, Message(role="user", content=f"{seed}-{n}: " + " ".join(draw.choices(WORDS, k=90))))
        for n in range(n_chats)
    ]


async def ours(engine: WorkerClient, messages: Sequence[Message]) -> tuple[float, int]:
    request = Generate(
        messages=tuple(messages), sampling=Sampling(temp=0), max_tokens=N_GENERATED, ignore_eos=True
    )
    started_s = time.perf_counter()
    first_s = 0.0
    async for event in engine.generate(request):
        match event:
            case Delta() if not first_s:
                first_s = time.perf_counter() - started_s
            case Done(usage=usage):
                return first_s, usage.completion_tokens
            case _:
                pass
    raise AssertionError("the answer did not end")


async def theirs(port: int, messages: Sequence[Message]) -> tuple[float, int]:
    answered = await chat(port, messages, max_tokens=N_GENERATED, ignore_eos=True)
    return answered.ttft_s, answered.n_tokens


async def one_run(
    ask: Callable[[Sequence[Message]], Awaitable[tuple[float, int]]], chats: Sequence[Sequence[Message]]
) -> Run:
    started_s = time.perf_counter()
    ends = await asyncio.gather(*map(ask, chats))
    return Run(
        n_tokens=sum(n for _, n in ends),
        wall_s=time.perf_counter() - started_s,
        ttft_s=tuple(ttft_s for ttft_s, _ in ends),
    )


async def compare(n_chats: int, *, shared: bool) -> None:
    model, threads = demo_model(), n_threads()
    n_kv = n_chats * N_CTX
    ours_runs: list[Run] = []
    their_runs: list[Run] = []
    options = ("-np", str(n_chats), "-c", str(n_kv))
    async with client(model, threads, n_ctx=N_CTX, n_parallel=n_chats, n_kv=n_kv) as engine:
        with llama_server(model, *options, threads=threads) as port:
            for seed in range(N_RUNS + 1):
                chats = prompts(n_chats, seed=seed, shared=shared)
                their_runs.append(await one_run(lambda messages: theirs(port, messages), chats))
                ours_runs.append(await one_run(lambda messages: ours(engine, messages), chats))
    ours_runs, their_runs = ours_runs[1:], their_runs[1:]  # the first run warms both up
    print(f"\n{n_chats} chats, {'one system prompt for all' if shared else 'nothing in common'}")
    row("llama-server", [run.tps for run in their_runs], "tok/s")
    row("edgeapp", [run.tps for run in ours_runs], "tok/s")
    row("llama-server, TTFT p95", [run.ttft_p95_s for run in their_runs], "s")
    row("edgeapp, TTFT p95", [run.ttft_p95_s for run in ours_runs], "s")
    row("llama-server, TTFT median", [statistics.median(run.ttft_s) for run in their_runs], "s")
    row("edgeapp, TTFT median", [statistics.median(run.ttft_s) for run in ours_runs], "s")
    ratio("tokens/s, edgeapp / llama-server", [r.tps for r in ours_runs], [r.tps for r in their_runs])
    ratio(
        "TTFT p95, llama-server / edgeapp",
        [r.ttft_p95_s for r in their_runs],
        [r.ttft_p95_s for r in ours_runs],
    )


async def main() -> None:
    machine()
    for n_chats in map(int, sys.argv[1:]) if sys.argv[1:] else N_CHATS:
        for shared in (False, True):
            await compare(n_chats, shared=shared)


if __name__ == "__main__":
    asyncio.run(main())

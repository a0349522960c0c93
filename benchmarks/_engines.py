"""What the benchmarks share: the demo model, llama.cpp's own programs, our client, printing ratios."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeapp import catalog
from edgeapp.hardware import read_host
from edgeapp.protocol import Delta, Done, Drafting, Generate, Load, Message, Sampling
from edgeapp.runtime.worker_client import WorkerClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

PEERS = Path(".cache/peers/bin")
N_GENERATED = 128  # llama-bench's tg128


def demo_model() -> Path:
    return catalog.resolve_local("smollm2-135m")


def peer(name: str) -> Path:
    path = PEERS / name
    if not path.exists():
        sys.exit(f"{path} is missing: run `make peers` first")
    return path


def n_threads() -> int:
    return read_host().physical_cores


def llama_bench_tps(model: Path, threads: int, *, depth: int) -> float:
    """Return the tokens/s of one llama-bench tg128 run that starts with `depth` tokens in the KV cache."""
    command = [
        str(peer("llama-bench")), "-m", str(model), "-t", str(threads), "-d", str(depth),
        "-p", "0", "-n", str(N_GENERATED), "-r", "1", "-o", "json",
    ]  # fmt: skip
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(json.loads(printed)[0]["avg_ts"])


@asynccontextmanager
async def client(
    model: Path, threads: int, *, n_ctx: int = 1024, **options: Any
) -> AsyncIterator[WorkerClient]:
    """`options` are further fields of `Load`."""
    engine = WorkerClient(Load(path=str(model), n_ctx=n_ctx, n_threads=threads, **options))
    try:
        await engine.load()
        yield engine
    finally:
        await engine.aclose()


async def decode_tps(
    engine: WorkerClient, sampling: Sampling, *, n_tokens: int = N_GENERATED
) -> tuple[float, int]:
    """Return the tokens/s that arrived here after the first one, and the length of the prompt."""
    request = Generate(
        messages=(Message(role="user", content="Tell me a long story about the sea."),),
        sampling=sampling,
        max_tokens=n_tokens,
        ignore_eos=True,
        drafting=Drafting(mode="off"),
    )
    return await answer_tps(engine, request)


async def answer_tps(engine: WorkerClient, request: Generate) -> tuple[float, int]:
    """Return the tokens/s that arrived here after the first one, and the length of the prompt."""
    first_s = 0.0
    async for event in engine.generate(request):
        match event:
            case Delta() if not first_s:
                first_s = time.perf_counter()
            case Done(usage=usage):
                rate = (usage.completion_tokens - 1) / (time.perf_counter() - first_s)
                return rate, usage.prompt_tokens
            case _:
                pass
    raise AssertionError("the generation did not finish")


def row(name: str, values: Sequence[float], unit: str) -> None:
    low, middle, high = min(values), statistics.median(values), max(values)
    print(f"{name:<38} {middle:9.2f} {unit:<8} (min {low:.2f}, max {high:.2f}, n={len(values)})")


def ratio(name: str, ours: Sequence[float], theirs: Sequence[float]) -> None:
    """Print the median of the ratios pair by pair, which holds when the machine's speed drifts."""
    pairs = [a / b for a, b in zip(ours, theirs, strict=True)]
    print(f"{name:<38} {statistics.median(pairs):9.3f} ×        (min {min(pairs):.3f}, max {max(pairs):.3f})")


def machine() -> None:
    load = os.getloadavg()[0]
    print(
        f"{read_host().cpu_model}, {n_threads()} cores, load {load:.2f}" + (" - NOT IDLE" if load > 1 else "")
    )

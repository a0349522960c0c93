"""Load a model with one number of active experts after the other: its speed, and its loss.

One worker at a time, because a model may fill the machine; the trained model's logits wait in a file. The
text is cut and scored as by `edgeapp quality`: chunks, of which the second half counts.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edgeapp.bench.intervals import mean_interval
from edgeapp.bench.speed import SPARE_TOKENS, Speed, measure_speed
from edgeapp.errors import UsageError
from edgeapp.runtime import measuring
from edgeapp.runtime.planning import planned_load
from edgeapp.runtime.worker_client import WorkerClient
from edgeapp_converters import statistics
from edgeapp_converters.chunks import chunks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from edgeapp_converters.statistics import TokenLosses

CHUNK_TOKENS = 512  # as `edgeapp quality` and llama-perplexity
_N_OUTPUTS = 128
"""Tokens of a micro-batch that get logits: enough for full speed, a few MB to 130 MB in the worker."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What is measured: passages for the speed, `n_tokens` of a text for the loss."""

    n_tokens: int
    n_prompt: int
    n_decode: int
    n_repeats: int
    n_threads: int

    @property
    def chunk_tokens(self) -> int:
        return min(CHUNK_TOKENS, self.n_tokens)

    @property
    def n_ctx(self) -> int:
        return max(self.chunk_tokens, self.n_prompt + self.n_decode + SPARE_TOKENS)


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Distance from the trained number of experts, over `n_tokens` tokens; intervals cover 95 %."""

    kld: float
    kld_ci: tuple[float, float]
    same_top1: float
    same_top1_ci: tuple[float, float]
    n_tokens: int


@dataclass(frozen=True, kw_only=True)
class CountResult:
    """`loss` is None for the trained number, which is what the others are compared with."""

    experts: int
    speed: Speed
    loss: Loss | None


async def measure_counts(
    path: Path,
    counts: Sequence[int],
    text: str,
    *,
    trained: int,
    choices: Choices,
    on_step: Callable[[int, int], None],
) -> list[CountResult]:
    """Return a result for each of `counts` and for the `trained` number, in the order of the numbers.

    `on_step` gets the steps done and their total. Raise `UsageError` when the text or the context is too
    short, and what loading and computing raise.
    """
    others = [count for count in sorted(set(counts)) if count != trained]
    steps = _Steps(n_loads=1 + len(others), tell=on_step)
    sweep = _Sweep(path=path, text=text, choices=choices, steps=steps)
    with ExitStack() as files:
        async with sweep.loaded(trained) as client:
            parts, n_vocab = await _chunks(client, text, choices), (await client.load()).n_vocab
            steps.n_per_load = choices.n_repeats + 1 + len(parts)
            results = [CountResult(experts=trained, speed=await sweep.speed(client), loss=None)]
            base = _base_rows(files, parts, n_vocab)
            async for first, rows, _ in _scored_rows(client, parts, steps=steps):
                base[first : first + len(rows)] = rows
        results += [await sweep.compared(count, parts, base) for count in others]
    return sorted(results, key=lambda result: result.experts)


class _Steps:
    """Counts answers and chunks that are done; `n_per_load` is known once the text has been cut."""

    def __init__(self, *, n_loads: int, tell: Callable[[int, int], None]) -> None:
        self._n_loads, self._tell, self._done = n_loads, tell, 0
        self.n_per_load = 0

    def one_more(self) -> None:
        self._done += 1
        self._tell(self._done, self._n_loads * self.n_per_load)


@dataclass(frozen=True, kw_only=True)
class _Sweep:
    """What stays the same for all numbers of experts."""

    path: Path
    text: str
    choices: Choices
    steps: _Steps

    @asynccontextmanager
    async def loaded(self, n_expert_used: int) -> AsyncIterator[WorkerClient]:
        load = await planned_load(self.path, n_ctx=self.choices.n_ctx, n_threads=self.choices.n_threads)
        client = WorkerClient(
            msgspec.structs.replace(load, n_outputs=_N_OUTPUTS, n_expert_used=n_expert_used)
        )
        try:
            yield client
        finally:
            await client.aclose()

    async def speed(self, client: WorkerClient) -> Speed:
        return await measure_speed(
            client,
            self.text,
            n_prompt=self.choices.n_prompt,
            n_decode=self.choices.n_decode,
            n_repeats=self.choices.n_repeats,
            on_step=self.steps.one_more,
        )

    async def compared(
        self, count: int, parts: Sequence[Sequence[int]], base: NDArray[np.float32]
    ) -> CountResult:
        losses: list[TokenLosses] = []
        async with self.loaded(count) as client:
            speed = await self.speed(client)
            async for first, rows, targets in _scored_rows(client, parts, steps=self.steps):
                ours = base[first : first + len(rows)]
                # In a thread, so that the event loop goes on hearing the worker.
                losses.append(await asyncio.to_thread(statistics.token_losses, ours, rows, targets))
        loss = _loss(statistics.joined(losses), n_scored=_n_scored(parts))
        return CountResult(experts=count, speed=speed, loss=loss)


async def _chunks(client: WorkerClient, text: str, choices: Choices) -> list[list[int]]:
    loaded = await client.load()
    if choices.chunk_tokens > loaded.n_ctx:
        raise UsageError(
            f"The model has a context of {loaded.n_ctx} tokens, chunks of {choices.chunk_tokens} do not fit.",
            hint=f"--tokens {loaded.n_ctx} would fit.",
        )
    tokens = await measuring.tokenize_text(client, text, max_tokens=choices.n_tokens)
    parts = chunks(tokens, n_ctx=choices.chunk_tokens, bos=loaded.bos)
    if not parts:
        raise UsageError(
            f"The text has {len(tokens)} tokens, a chunk needs {choices.chunk_tokens}.",
            hint="Give a longer text or a smaller --tokens.",
        )
    return parts


async def _scored_rows(
    client: WorkerClient, parts: Sequence[Sequence[int]], *, steps: _Steps
) -> AsyncIterator[tuple[int, NDArray[np.float32], Sequence[int]]]:
    """Yield the number of the first row, a block of logits [n, n_vocab], and the tokens that came next."""
    first_row, at_once = 0, measuring.rows_at_once((await client.load()).n_vocab)
    for part in parts:
        for start, end in _blocks(len(part), rows_at_once=at_once):
            reuse = start > len(part) // 2
            async with measuring.evaluate(client, part[:end], first_logits=start, reuse_prefix=reuse) as rows:
                yield first_row, rows, part[start + 1 : end + 1]
            first_row += end - start
        steps.one_more()


def _blocks(n_ctx: int, *, rows_at_once: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of positions whose next token is scored: the second half, without the last."""
    for start in range(n_ctx // 2, n_ctx - 1, rows_at_once):
        yield start, min(start + rows_at_once, n_ctx - 1)


def _n_scored(parts: Sequence[Sequence[int]]) -> int:
    return len(parts[0]) - 1 - len(parts[0]) // 2


def _base_rows(files: ExitStack, parts: Sequence[Sequence[int]], n_vocab: int) -> NDArray[np.float32]:
    """Return room for the trained model's logits [n_rows, n_vocab], in a file that goes with `files`."""
    n_rows = len(parts) * _n_scored(parts)
    n_bytes = n_rows * n_vocab * np.dtype(np.float32).itemsize
    file = files.enter_context(measuring.private_file(n_bytes))
    return np.memmap(file, dtype=np.float32, mode="w+", shape=(n_rows, n_vocab))


def _loss(losses: TokenLosses, *, n_scored: int) -> Loss:
    return Loss(
        kld=float(losses.kld.mean()),
        kld_ci=mean_interval(losses.kld, cluster_length=n_scored),
        same_top1=float(losses.same_top.mean()),
        same_top1_ci=statistics.proportion_interval(losses.same_top, cluster_length=n_scored),
        n_tokens=len(losses.kld),
    )

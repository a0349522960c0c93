"""Run a model over a calibration text in a worker of its own and bring back what its weights saw.

Chunks and their first token are those of llama.cpp's tools/imatrix. Knows no recipe; what the sums mean is
`edgeapp_converters.imatrix`'s subject.
"""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec

from edgeapp.errors import EngineCrashed, UsageError
from edgeapp.gguf_info.parts import read_parts
from edgeapp.runtime import measuring
from edgeapp.runtime.planning import planned_load
from edgeapp.runtime.worker_client import WorkerClient
from edgeapp_converters import imatrix
from edgeapp_converters.chunks import chunks
from edgeapp_converters.events import StageProgress, Warned

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from edgeapp_converters.events import Report
    from edgeapp_converters.imatrix import Imatrix

CHUNK_TOKENS = 512  # the default of llama-imatrix
_N_UBATCH = 256  # every token has logits here, and half of them need half the memory


async def collect_imatrix(
    model: Path,
    text: str,
    *,
    dataset: str,
    n_threads: int = 0,
    n_ctx: int = CHUNK_TOKENS,
    max_tokens: int | None = None,
    report: Report,
) -> Imatrix:
    """Return the importance matrix of the GGUF `model` over `text`, whose name `dataset` it carries.

    What is left over after the last whole chunk of `n_ctx` tokens is not used. Raise `EdgeappError`.
    """
    async with _collecting_worker(model, n_ctx=n_ctx, n_threads=n_threads) as client:
        await _collect(client, text, n_ctx=n_ctx, max_tokens=max_tokens, report=report)
        with measuring.private_folder(_n_bytes(model)) as folder:
            path = folder / "imatrix.gguf"
            await measuring.write_imatrix(client, path, datasets=(dataset,), chunk_size=n_ctx)
            collected = imatrix.read(path)
    _warn_of_unseen_experts(collected, report)
    return collected


async def keep_inputs(
    model: Path,
    text: str,
    names: Sequence[str],
    folder: Path,
    *,
    n_threads: int = 0,
    n_ctx: int = CHUNK_TOKENS,
    max_tokens: int | None = None,
    report: Report,
) -> int:
    """Write the inputs of the weights `names` over `text` to files in `folder`; return the number of tokens.

    `edgeapp.runtime.measuring.kept_inputs(folder, index, n_tokens=…)` reads those of `names[index]`, one row
    a token. Raise `EdgeappError`.
    """
    async with _collecting_worker(model, n_ctx=n_ctx, n_threads=n_threads) as client:
        return await _collect(
            client, text, n_ctx=n_ctx, max_tokens=max_tokens, report=report, kept=names, folder=folder
        )


@asynccontextmanager
async def _collecting_worker(model: Path, *, n_ctx: int, n_threads: int) -> AsyncIterator[WorkerClient]:
    load = await planned_load(model, n_ctx=n_ctx, n_threads=n_threads)
    client = WorkerClient(msgspec.structs.replace(load, collect=True, n_ubatch=min(_N_UBATCH, n_ctx)))
    try:
        yield client
    finally:
        await client.aclose()


async def _collect(
    client: WorkerClient,
    text: str,
    *,
    n_ctx: int,
    max_tokens: int | None,
    report: Report,
    kept: Sequence[str] = (),
    folder: Path | None = None,
) -> int:
    tokens = await measuring.tokenize_text(client, text, max_tokens=max_tokens)
    parts = chunks(tokens, n_ctx=n_ctx, bos=(await client.load()).bos)
    if not parts:
        raise UsageError(
            f"The calibration text has {len(tokens)} tokens, at least {n_ctx} are needed.",
            hint="A few hundred kilobytes of varied text are good.",
        )
    done, total = 0, len(parts) * n_ctx
    report(StageProgress(stage="calibrating", done=0, total=total, unit="tokens"))
    for part in parts:
        done += n_ctx
        if await measuring.collect(client, part, keep_inputs=kept, inputs_folder=folder) != done:
            raise EngineCrashed("The engine was started again while it calibrated.", hint="Try again.")
        report(StageProgress(stage="calibrating", done=done, total=total, unit="tokens"))
    return total


def _n_bytes(model: Path) -> int:
    """Return how large the importance matrix file can be: a float for each column of each expert."""
    shapes = [tensor.shape for part in read_parts(model) for tensor in part.tensors if len(tensor.shape) > 1]
    return sum(shape[0] * math.prod(shape[2:]) * 4 for shape in shapes) + (1 << 20)


def _warn_of_unseen_experts(collected: Imatrix, report: Report) -> None:
    coverage = collected.coverage()
    n_unseen = sum(tensor.n_unseen for tensor in coverage)
    if n_unseen:
        n_expert = sum(tensor.n_expert for tensor in coverage)
        report(
            Warned(
                message=f"{n_unseen} of {n_expert} expert matrices saw no token of the calibration text.",
                hint="They get the mean of their layer. A longer or more varied text reaches more experts.",
            )
        )

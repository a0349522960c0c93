"""Try a converted file before it gets its name: load it, compare the tokenizer, decode one token.

The model runs in a worker process like any other. Knows nothing of how the file came to be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from edgeapp.errors import ConversionFailed, EdgeappError, NotEnoughMemory
from edgeapp.protocol import Done, Failed, Generate, Message, Sampling
from edgeapp.runtime.planning import planned_load
from edgeapp.runtime.worker_client import WorkerClient
from edgeapp_converters.events import StageProgress, Warned
from edgeapp_converters.round_trip import check_round_trip

if TYPE_CHECKING:
    from pathlib import Path

    from edgeapp_converters.events import Report

_N_CTX = 512
_N_UBATCH = 64  # small compute buffers
_STEPS = 3


async def check_loads(path: Path, *, folder: Path | None, n_threads: int, report: Report) -> None:
    """Load the GGUF at `path` and use it. `folder` holds the tokenizer that it must agree with, if known.

    Raise `ConversionFailed` when it does not load, splits text differently from its source, or cannot
    answer. A machine with too little memory to load it is told so in a `Warned` event.
    """
    try:
        planned = await planned_load(path, n_ctx=_N_CTX, n_threads=n_threads)
    except NotEnoughMemory as problem:
        report(Warned(message=f"The file was not tried: {problem.message}", hint=problem.hint))
        return
    # Weights stay in the mapped file: a copy in private memory would be as large as the model.
    client = WorkerClient(msgspec.structs.replace(planned, repack=False, n_ubatch=_N_UBATCH))
    try:
        await _use(client, folder=folder, report=report)
    except ConversionFailed:
        raise
    except EdgeappError as problem:
        raise ConversionFailed(
            f"The converted file does not work: {problem.message}", hint=problem.hint
        ) from problem
    finally:
        await client.aclose()


async def _use(client: WorkerClient, *, folder: Path | None, report: Report) -> None:
    await client.load()
    _tell(report, 1, "tokenizer")
    if folder is not None:
        await check_round_trip(client, folder)
    _tell(report, 2, "first token")
    await _decode_one_token(client)
    _tell(report, _STEPS, "")


async def _decode_one_token(client: WorkerClient) -> None:
    request = Generate(
        messages=(Message(role="user", content="Hello"),), sampling=Sampling(temp=0), max_tokens=1
    )
    async for event in client.generate(request):
        match event:
            case Done():
                return
            case Failed(message=message, hint=hint):
                raise ConversionFailed(f"The converted file does not answer: {message}", hint=hint)
            case _:
                continue


def _tell(report: Report, done: int, label: str) -> None:
    report(StageProgress(stage="checking", done=done, total=_STEPS, unit="steps", label=label))

"""How much a quantised model lost: it and its base compute the same text, and their answers are compared.

The text is cut and scored as by llama-perplexity --kl-divergence: chunks of `n_ctx` tokens, the second half
of each counts. Both models run in workers of their own, one after the other at every block of tokens, and
no logits are kept.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from edgeapp.cleantext import clean_line
from edgeapp.errors import EngineError, UnsupportedModel, UsageError
from edgeapp.gguf_info import read_gguf_info
from edgeapp.runtime import measuring
from edgeapp.runtime.planning import planned_load
from edgeapp.runtime.worker_client import WorkerClient
from edgeapp_converters import statistics
from edgeapp_converters.chunks import chunks
from edgeapp_converters.events import StageProgress
from edgeapp_converters.retention import answer_task, tokenize_task

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from edgeapp.gguf_info import GgufInfo
    from edgeapp.protocol import Loaded
    from edgeapp_converters.events import Report
    from edgeapp_converters.retention import Task
    from edgeapp_converters.statistics import TokenLosses

DEFAULT_N_CTX = 512  # the default of llama-perplexity
MIN_N_CTX = 32
_N_OUTPUTS = 128
"""Tokens of a micro-batch that get logits: enough for full speed, a few MB to 130 MB in the worker."""


@dataclass(frozen=True, kw_only=True)
class TaskReport:
    """Scores are shares of right answers; `retention` is their ratio, None when the base has none right."""

    task_name: str
    task_items: int
    task_base: float
    task_quant: float
    retention: float | None
    retention_ci: tuple[float, float] | None
    flips: int
    """Items that one of the two gets right and the other does not."""


@dataclass(frozen=True, kw_only=True)
class QualityReport:
    """What was measured. Divergences are in nats, intervals cover 95 %, sizes are of the files."""

    kld_mean: float
    kld_median: float
    kld_p99: float
    kld_p999: float
    kld_max: float
    top1_agreement: float
    top1_ci: tuple[float, float]
    ppl_base: float
    ppl_quant: float
    ppl_ratio: float
    rms_dp: float
    n_tokens: int
    """Tokens that were scored."""
    n_chunks: int
    n_ctx: int
    text_name: str
    text_sha256: str
    base_bytes: int
    quant_bytes: int
    base_bpw: float
    quant_bpw: float
    task: TaskReport | None

    @property
    def retention(self) -> float | None:
        return self.task.retention if self.task else None

    @property
    def retention_ci(self) -> tuple[float, float] | None:
        return self.task.retention_ci if self.task else None

    @property
    def task_items(self) -> int | None:
        return self.task.task_items if self.task else None

    def as_json(self) -> dict[str, Any]:
        """Return all numbers in one flat object; those of the task only when there was one."""
        flat = asdict(self)
        return flat | (flat.pop("task") or {})


async def measure_quality(
    base: Path,
    quant: Path,
    text: str,
    *,
    text_name: str = "",
    n_ctx: int = DEFAULT_N_CTX,
    max_tokens: int | None = None,
    task: Task | None = None,
    n_threads: int = 0,
    report: Report,
) -> QualityReport:
    """Compare the GGUF `quant` with `base` on `text`, at most `max_tokens` of it, and on `task`.

    Raise `UsageError` for a text or context that is too short or too long, `UnsupportedModel` for models
    with different vocabularies, and what loading and computing raise.
    """
    if n_ctx < MIN_N_CTX:
        raise UsageError(f"Chunks of {n_ctx} tokens are too short.", hint=f"Use at least {MIN_N_CTX}.")
    async with _loaded(base, n_ctx, n_threads) as one, _loaded(quant, n_ctx, n_threads) as other:
        for path, client in ((base, one), (quant, other)):
            _check_context(await client.load(), n_ctx, path)
        tokens = await _common_tokens(one, other, text, max_tokens=max_tokens)
        losses = await _compare(one, other, tokens, n_ctx=n_ctx, report=report)
        answers = None if task is None else await _task_report(one, other, task, report=report)
    return _report(
        losses,
        n_ctx=n_ctx,
        text=text,
        text_name=text_name,
        base=read_gguf_info(base),
        quant=read_gguf_info(quant),
        task=answers,
    )


@asynccontextmanager
async def _loaded(model: Path, n_ctx: int, n_threads: int) -> AsyncIterator[WorkerClient]:
    load = await planned_load(model, n_ctx=n_ctx, n_threads=n_threads)
    client = WorkerClient(msgspec.structs.replace(load, n_outputs=_N_OUTPUTS))
    try:
        await client.load()
        yield client
    finally:
        await client.aclose()


def _check_context(loaded: Loaded, n_ctx: int, path: Path) -> None:
    if n_ctx > loaded.n_ctx:
        raise UsageError(
            f"{clean_line(path.name)} has a context of {loaded.n_ctx} tokens, chunks of {n_ctx} do not fit.",
            hint=f"--n-ctx {loaded.n_ctx} is the most.",
        )


async def _common_tokens(
    one: WorkerClient, other: WorkerClient, text: str, *, max_tokens: int | None
) -> list[int]:
    """Return the text's tokens, which must be the same for both models."""
    sizes = (await one.load()).n_vocab, (await other.load()).n_vocab
    if sizes[0] != sizes[1]:
        raise UnsupportedModel(
            f"The models have different vocabularies, of {sizes[0]} and {sizes[1]} tokens.",
            hint="Compare a model with a conversion of the same model.",
        )
    ours = await measuring.tokenize_text(one, text, max_tokens=max_tokens)
    theirs = await measuring.tokenize_text(other, text, max_tokens=max_tokens)
    if ours != theirs:
        raise UnsupportedModel(
            "The models have different vocabularies: they split the text into different tokens.",
            hint="Compare a model with a conversion of the same model.",
        )
    return ours


# Text ------------------------------------------------------------------------------------------------------


async def _compare(
    base: WorkerClient, quant: WorkerClient, tokens: Sequence[int], *, n_ctx: int, report: Report
) -> TokenLosses:
    parts = chunks(tokens, n_ctx=n_ctx, bos=(await base.load()).bos)
    if not parts:
        raise UsageError(
            f"The text has {len(tokens)} tokens, a chunk needs {n_ctx}.",
            hint="Give a longer text or a smaller --n-ctx.",
        )
    losses: list[TokenLosses] = []
    for number, part in enumerate(parts):
        report(_progress(number * n_ctx, len(parts) * n_ctx))
        losses += [
            await _block(base, quant, part, first, end)
            for first, end in _scored(n_ctx, rows_at_once=measuring.rows_at_once((await base.load()).n_vocab))
        ]
    report(_progress(len(parts) * n_ctx, len(parts) * n_ctx))
    return statistics.joined(losses)


def _progress(done: int, total: int) -> StageProgress:
    return StageProgress(stage="comparing", done=done, total=total, unit="tokens", label="text")


def _scored(n_ctx: int, *, rows_at_once: int) -> list[tuple[int, int]]:
    """Return the ranges of positions whose next token is scored: the second half, without the last."""
    starts = range(n_ctx // 2, n_ctx - 1, rows_at_once)
    return [(start, min(start + rows_at_once, n_ctx - 1)) for start in starts]


async def _block(
    base: WorkerClient, quant: WorkerClient, part: Sequence[int], first: int, end: int
) -> TokenLosses:
    """Compare the positions `first` to `end` of a chunk; what comes before them is in the KV caches."""
    reuse = first > len(part) // 2
    async with (
        measuring.evaluate(base, part[:end], first_logits=first, reuse_prefix=reuse) as ours,
        measuring.evaluate(quant, part[:end], first_logits=first, reuse_prefix=reuse) as theirs,
    ):
        # In a thread, so that the event loop goes on hearing the workers.
        losses = await asyncio.to_thread(statistics.token_losses, ours, theirs, part[first + 1 : end + 1])
    if not np.isfinite([losses.nll_base, losses.nll_quant]).all():
        raise EngineError(
            "A model computes logits that are not numbers.",
            hint="Its file is damaged, or the engine cannot run it.",
        )
    return losses


# Task ------------------------------------------------------------------------------------------------------


async def _task_report(base: WorkerClient, quant: WorkerClient, task: Task, *, report: Report) -> TaskReport:
    items = await tokenize_task(base, task)
    ours = await answer_task(base, items, label=f"{task.name}, base", report=report)
    theirs = await answer_task(quant, items, label=f"{task.name}, quantised", report=report)
    return TaskReport(
        task_name=task.name,
        task_items=len(items),
        task_base=float(ours.mean()),
        task_quant=float(theirs.mean()),
        retention=float(theirs.sum() / ours.sum()) if ours.any() else None,
        retention_ci=statistics.ratio_interval(theirs, ours),
        flips=int((ours != theirs).sum()),
    )


# Report ----------------------------------------------------------------------------------------------------


def _report(
    losses: TokenLosses,
    *,
    n_ctx: int,
    text: str,
    text_name: str,
    base: GgufInfo,
    quant: GgufInfo,
    task: TaskReport | None,
) -> QualityReport:
    n_scored = n_ctx - 1 - n_ctx // 2
    median, p99, p999 = np.quantile(losses.kld, [0.5, 0.99, 0.999])
    mean_base, mean_quant = float(losses.nll_base.mean()), float(losses.nll_quant.mean())
    return QualityReport(
        kld_mean=float(losses.kld.mean()),
        kld_median=float(median),
        kld_p99=float(p99),
        kld_p999=float(p999),
        kld_max=float(losses.kld.max()),
        top1_agreement=float(losses.same_top.mean()),
        top1_ci=statistics.proportion_interval(losses.same_top, cluster_length=n_scored),
        ppl_base=float(np.exp(mean_base)),
        ppl_quant=float(np.exp(mean_quant)),
        ppl_ratio=float(np.exp(mean_quant - mean_base)),
        rms_dp=statistics.rms_delta_p(losses),
        n_tokens=len(losses.kld),
        n_chunks=len(losses.kld) // n_scored,
        n_ctx=n_ctx,
        text_name=text_name,
        text_sha256=hashlib.sha256(text.encode()).hexdigest(),
        base_bytes=base.file_bytes,
        quant_bytes=quant.file_bytes,
        base_bpw=base.bits_per_weight,
        quant_bpw=quant.bits_per_weight,
        task=task,
    )

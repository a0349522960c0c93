"""What a comparison of two models reports, against logits taken from each of them alone."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from edgeapp.errors import EngineError, UnsupportedModel, UsageError
from edgeapp.protocol import Load
from edgeapp.runtime import measuring
from edgeapp.runtime.worker_client import WorkerClient
from edgeapp_converters.events import StageProgress
from edgeapp_converters.quality import QualityReport, measure_quality
from edgeapp_converters.retention import Item, Task
from edgeapp_converters.statistics import token_losses
from tests.converters.noisy import write_noisy
from tests.tiny_moe import write_tiny_moe

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from edgeapp_converters.events import ConversionEvent

TEXT = "".join(
    f"Line {n}: the quick brown fox {'jumps' if n % 3 else 'sleeps'}, {n * n}.\n" for n in range(60)
)
N_CTX = 64
TASK = Task(
    name="little",
    items=tuple(
        Item(context=f"Question {n}: the answer is", choices=(" yes", " no, never", " maybe"), answer=n % 3)
        for n in range(12)
    ),
)


@pytest.fixture(scope="session")
def noisy_moe(tiny_moe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_noisy(tiny_moe, tmp_path_factory.mktemp("noisy") / "noisy-moe.gguf")


async def compare(
    base: Path, quant: Path, *, n_ctx: int = N_CTX, max_tokens: int | None = 260, task: Task | None = None
) -> QualityReport:
    return await measure_quality(
        base,
        quant,
        TEXT,
        text_name="foxes",
        n_ctx=n_ctx,
        max_tokens=max_tokens,
        task=task,
        n_threads=1,
        report=lambda _event: None,
    )


async def chunk_logits(model: Path) -> tuple[list[list[int]], list[NDArray[np.float32]]]:
    """Return the first four chunks, with all their logits."""
    client = WorkerClient(Load(id=0, path=str(model), n_ctx=256, n_threads=1, n_outputs=64))
    try:
        tokens = await measuring.tokenize_text(client, TEXT)
        bos = (await client.load()).bos
        parts = [tokens[start : start + N_CTX] for start in range(0, 4 * N_CTX, N_CTX)]
        rows = []
        for part in parts:
            async with measuring.evaluate(client, [bos or part[0], *part[1:]]) as logits:
                rows.append(np.array(logits))
        return parts, rows
    finally:
        await client.aclose()


@pytest.mark.parametrize("add_bos", [False, True])
async def test_the_second_half_of_every_chunk_is_scored(tmp_path: Path, *, add_bos: bool) -> None:
    base = write_tiny_moe(tmp_path / "base.gguf", add_bos=add_bos)
    quant = write_noisy(base, tmp_path / "quant.gguf")
    found = await compare(base, quant)
    parts, ours = await chunk_logits(base)
    _, theirs = await chunk_logits(quant)
    scored = slice(N_CTX // 2, N_CTX - 1)
    losses = [
        token_losses(one[scored], other[scored], part[N_CTX // 2 + 1 :])
        for part, one, other in zip(parts, ours, theirs, strict=True)
    ]
    kld = np.concatenate([loss.kld for loss in losses])
    assert found.n_tokens == len(kld) == 4 * 31
    assert found.n_chunks == 4
    assert found.kld_mean == pytest.approx(kld.mean(), rel=1e-2)
    assert found.kld_median == pytest.approx(np.median(kld), rel=1e-2)
    assert found.kld_max == pytest.approx(kld.max(), rel=1e-2)
    assert found.kld_median < found.kld_p99 < found.kld_p999 < found.kld_max
    assert 0.01 < found.kld_mean < 1
    ppl_base, ppl_quant = (
        float(np.exp(np.concatenate([getattr(loss, name) for loss in losses]).mean()))
        for name in ("nll_base", "nll_quant")
    )
    assert found.ppl_base == pytest.approx(ppl_base, rel=1e-2)
    assert found.ppl_quant == pytest.approx(ppl_quant, rel=1e-2)
    assert found.ppl_ratio == pytest.approx(ppl_quant / ppl_base, rel=1e-2)
    same = np.concatenate([loss.same_top for loss in losses]).mean()
    assert found.top1_agreement == pytest.approx(same, abs=0.02)
    assert found.top1_ci[0] < found.top1_agreement < found.top1_ci[1]


async def test_a_model_is_as_good_as_itself(tiny_moe: Path) -> None:
    found = await compare(tiny_moe, tiny_moe, task=TASK)
    assert found.kld_max < 1e-9
    assert found.top1_agreement == found.top1_ci[1] == 1
    assert found.top1_ci[0] < 1
    assert (found.ppl_ratio, found.rms_dp) == (1, 0)
    assert found.task is not None
    assert (found.retention, found.retention_ci, found.task.flips) == (1, (1, 1), 0)


async def test_large_vocabularies_are_compared_in_blocks_with_the_same_result(
    tiny_moe: Path, noisy_moe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = await compare(tiny_moe, noisy_moe)
    monkeypatch.setattr(measuring, "BLOCK_BYTES", 5 * 1024 * 4)
    blocks = await compare(tiny_moe, noisy_moe)
    assert blocks.n_tokens == whole.n_tokens
    assert blocks.kld_mean == pytest.approx(whole.kld_mean, rel=1e-2)
    assert blocks.ppl_quant == pytest.approx(whole.ppl_quant, rel=1e-2)


async def test_the_report_names_text_and_sizes_and_is_flat_as_json(tiny_moe: Path, noisy_moe: Path) -> None:
    found = await compare(tiny_moe, noisy_moe, max_tokens=70, task=TASK)
    facts = json.loads(msgspec.json.encode(found.as_json()))
    assert facts["text_name"] == "foxes"
    assert facts["text_sha256"] == hashlib.sha256(TEXT.encode()).hexdigest()
    assert facts["quant_bytes"] == noisy_moe.stat().st_size
    assert facts["base_bpw"] == 32
    assert (facts["n_ctx"], facts["n_chunks"], facts["n_tokens"]) == (64, 1, 31)
    assert len(facts["top1_ci"]) == 2
    assert facts["task_items"] == 12
    assert facts["task_name"] == "little"
    assert facts["retention"] == pytest.approx(facts["task_quant"] / facts["task_base"])
    assert "task" not in facts
    without = await compare(tiny_moe, noisy_moe, max_tokens=70)
    assert "retention" not in without.as_json()
    assert (without.retention, without.task_items) == (None, None)


async def test_progress_counts_the_tokens_up_to_the_end(tiny_moe: Path) -> None:
    events: list[ConversionEvent] = []
    await measure_quality(
        tiny_moe, tiny_moe, TEXT, n_ctx=64, max_tokens=130, task=TASK, n_threads=1, report=events.append
    )
    shown = [event for event in events if isinstance(event, StageProgress)]
    assert [event.done for event in shown if event.unit == "tokens"] == [0, 64, 128]
    assert {event.total for event in shown if event.unit == "tokens"} == {128}
    assert [event.done for event in shown if "quantised" in event.label] == list(range(13))


async def test_models_with_vocabularies_of_different_sizes_are_refused(
    tiny_moe: Path, tmp_path: Path
) -> None:
    other = write_tiny_moe(tmp_path / "small.gguf", n_vocab=512)
    with pytest.raises(UnsupportedModel, match="different vocabularies, of 1024 and 512 tokens"):
        await compare(tiny_moe, other)


async def test_models_that_split_the_text_differently_are_refused(tiny_moe: Path, tmp_path: Path) -> None:
    other = write_tiny_moe(tmp_path / "bos.gguf", add_bos=True)
    with pytest.raises(UnsupportedModel, match="split the text into different tokens"):
        await compare(tiny_moe, other)


async def test_a_text_of_less_than_a_chunk_is_refused(tiny_moe: Path) -> None:
    with pytest.raises(UsageError, match="has 40 tokens, a chunk needs 64"):
        await compare(tiny_moe, tiny_moe, max_tokens=40)


async def test_a_chunk_longer_than_the_context_is_refused(tiny_moe: Path) -> None:
    with pytest.raises(UsageError, match="context of 512 tokens, chunks of 1024"):
        await compare(tiny_moe, tiny_moe, n_ctx=1024)
    with pytest.raises(UsageError, match="too short"):
        await compare(tiny_moe, tiny_moe, n_ctx=8)


async def test_a_model_that_computes_no_numbers_is_refused(tiny_moe: Path, tmp_path: Path) -> None:
    broken = write_noisy(tiny_moe, tmp_path / "nan.gguf", noise=float("nan"))
    with pytest.raises(EngineError, match="not numbers"):
        await compare(tiny_moe, broken)

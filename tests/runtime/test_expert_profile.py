"""Counts of experts from the real worker, and another number of active experts, on tiny models."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgeapp.errors import EngineError, UnsupportedModel, UsageError
from edgeapp.protocol import ExpertUsage, LayerUsage, Load, ReadExpertUsage
from edgeapp.runtime import measuring
from edgeapp.runtime.expert_profile import expert_usage, watching_load
from edgeapp.runtime.worker_client import WorkerClient
from edgeapp_converters import imatrix
from tests.runtime.engines import answer, ask
from tests.tiny_moe import write_tiny_moe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

TOKENS = tuple(int(token) for token in np.random.default_rng(7).integers(20, 1000, 96))
N_EXPERT, N_EXPERT_USED = 4, 2


@asynccontextmanager
async def engine(
    model: Path,
    *,
    n_ubatch: int = 64,
    n_outputs: int = 0,
    n_expert_used: int = 0,
    watch: bool = True,
    collect: bool = False,
) -> AsyncIterator[WorkerClient]:
    load = Load(
        path=str(model),
        n_ctx=512,
        n_threads=1,
        n_ubatch=n_ubatch,
        n_outputs=n_outputs or n_ubatch,
        kv_type="f32",
        watch_experts=watch,
        n_expert_used=n_expert_used,
        collect=collect,
    )
    client = WorkerClient(load)
    try:
        yield client
    finally:
        await client.aclose()


async def counted(client: WorkerClient, tokens: tuple[int, ...] = TOKENS) -> ExpertUsage:
    return await client.ask(ReadExpertUsage(tokens=tokens), ExpertUsage)


@pytest.fixture(scope="module")
def usage(tiny_moe: Path) -> ExpertUsage:
    """The counts of `TOKENS`, decoded 64 at a time."""

    async def count() -> ExpertUsage:
        async with engine(tiny_moe) as client:
            return await counted(client)

    return asyncio.run(count())


def test_every_token_is_counted_once_for_each_expert_it_uses(usage: ExpertUsage) -> None:
    assert usage.n_tokens == len(TOKENS)
    assert [layer.layer for layer in usage.layers] == [0, 1]
    for layer in usage.layers:
        assert len(layer.counts) == N_EXPERT
        assert sum(layer.counts) == len(TOKENS) * N_EXPERT_USED
        assert max(layer.counts) <= len(TOKENS)


async def test_the_counts_are_those_of_the_importance_matrix(
    tiny_moe: Path, tmp_path: Path, usage: ExpertUsage
) -> None:
    async with engine(tiny_moe, collect=True, watch=False) as client:
        await measuring.collect(client, TOKENS)
        await measuring.write_imatrix(client, tmp_path / "x.gguf", datasets=(), chunk_size=len(TOKENS))
    collected = imatrix.read(tmp_path / "x.gguf")
    for layer in usage.layers:
        for part in ("gate", "up", "down"):
            expected = collected.counts[f"blk.{layer.layer}.ffn_{part}_exps.weight"]
            assert list(layer.counts) == expected.astype(int).tolist()


@pytest.mark.parametrize(("n_ubatch", "n_outputs"), [(7, 7), (64, 5)])
async def test_how_the_text_is_cut_into_decodes_does_not_matter(
    tiny_moe: Path, usage: ExpertUsage, n_ubatch: int, n_outputs: int
) -> None:
    async with engine(tiny_moe, n_ubatch=n_ubatch, n_outputs=n_outputs) as client:
        found = await counted(client)
    assert found.n_tokens == usage.n_tokens
    # Other sizes of matrix products round otherwise; a near tie in the router may fall the other way.
    for ours, theirs in zip(found.layers, usage.layers, strict=True):
        assert sum(ours.counts) == sum(theirs.counts)
        assert sum(abs(a - b) for a, b in zip(ours.counts, theirs.counts, strict=True)) <= 2


async def test_counting_begins_at_zero_each_time_and_spoils_no_answer(tiny_moe: Path) -> None:
    async with engine(tiny_moe) as client:
        expected, _ = await answer(client, ask("Hello"))
        first = await counted(client)
        found, _ = await answer(client, ask("Hello"))
        again = await counted(client)
    assert again.layers == first.layers
    assert found == expected


async def test_a_worker_that_was_not_loaded_for_it_says_so(tiny_moe: Path) -> None:
    async with engine(tiny_moe, watch=False) as client:
        with pytest.raises(EngineError, match="not loaded to watch"):
            await counted(client)


async def test_a_dense_model_has_nothing_to_count(demo_model: Path) -> None:
    async with engine(demo_model) as client:
        assert (await client.load()).n_expert == 0
        with pytest.raises(UnsupportedModel, match="dense"):
            await expert_usage(client, TOKENS, name="text", on_progress=lambda _done: None)


async def test_a_long_text_is_read_in_contexts_to_its_last_token(tiny_moe: Path) -> None:
    tokens = TOKENS * 8
    done: list[int] = []
    client = WorkerClient(await watching_load(tiny_moe, n_ctx=256, n_threads=1))
    try:
        usage = await expert_usage(client, tokens, name="text", on_progress=done.append)
    finally:
        await client.aclose()
    assert done == [0, 256, 512, 768]
    assert (usage.name, usage.n_tokens) == ("text", len(tokens))
    assert all(sum(layer.counts) == len(tokens) * N_EXPERT_USED for layer in usage.layers)


async def test_each_context_begins_with_the_bos_token_where_the_model_wants_it(tmp_path: Path) -> None:
    model = write_tiny_moe(tmp_path / "bos.gguf", add_bos=True)
    client = WorkerClient(await watching_load(model, n_ctx=256, n_threads=1))
    try:
        bos = (await client.load()).bos
        assert bos is not None
        usage = await expert_usage(client, TOKENS, name="text", on_progress=lambda _done: None)
        expected = await counted(client, (bos, *TOKENS[1:]))
    finally:
        await client.aclose()
    assert usage.layers == expected.layers


async def test_another_count_computes_what_a_model_trained_with_it_would(
    tiny_moe: Path, tmp_path: Path
) -> None:
    single = write_tiny_moe(tmp_path / "single.gguf", n_expert_used=1)
    async with engine(tiny_moe, n_expert_used=1) as client, measuring.evaluate(client, TOKENS) as found:
        async with engine(single) as other, measuring.evaluate(other, TOKENS) as expected:
            np.testing.assert_array_equal(found, expected)
        async with engine(tiny_moe) as trained, measuring.evaluate(trained, TOKENS) as changed:
            assert np.abs(found - changed).max() > 0.01


async def test_with_all_experts_each_is_used_by_every_token(tiny_moe: Path) -> None:
    async with engine(tiny_moe, n_expert_used=N_EXPERT) as client:
        assert (await client.load()).n_expert_used == N_EXPERT
        usage = await counted(client)
    everywhere = (len(TOKENS),) * N_EXPERT
    assert usage.layers == tuple(LayerUsage(layer=layer, counts=everywhere) for layer in (0, 1))


@pytest.mark.parametrize(("n_expert_used", "said"), [(5, "1 to 4"), (-1, "1 to 4")])
async def test_an_impossible_count_is_a_usage_error(tiny_moe: Path, n_expert_used: int, said: str) -> None:
    async with engine(tiny_moe, n_expert_used=n_expert_used) as client:
        with pytest.raises(UsageError, match=said):
            await client.load()


async def test_a_dense_model_refuses_a_count(demo_model: Path) -> None:
    async with engine(demo_model, n_expert_used=2) as client:
        with pytest.raises(UsageError, match="dense"):
            await client.load()

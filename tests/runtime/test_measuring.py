"""Logits and activations from the real worker, compared with what numpy computes from the weights."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from gguf import GGUFReader

from edgeapp.errors import ContextOverflow, EngineError, NotEnoughDisk
from edgeapp.protocol import Cancel, Evaluate, Load, Request
from edgeapp.runtime import measuring
from edgeapp.runtime.supervisor import WorkerProcess
from edgeapp.runtime.worker_client import WorkerClient
from edgeapp_converters import imatrix
from tests.runtime.engines import answer, ask, real_engine
from tests.tiny_mamba import write_tiny_mamba
from tests.tiny_moe import N_EMBD, write_tiny_moe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from numpy.typing import NDArray

    from edgeapp_converters.imatrix import Imatrix

TOKENS = [int(token) for token in np.random.default_rng(7).integers(20, 1000, 96)]
N_EXPERT, N_EXPERT_USED = 4, 2


@asynccontextmanager
async def measured(
    model: Path,
    *,
    n_outputs: int = 128,
    collect: bool = False,
    n_ubatch: int = 64,
    n_ctx: int = 512,
) -> AsyncIterator[WorkerClient]:
    load = Load(
        id=0,
        path=str(model),
        n_ctx=n_ctx,
        n_threads=1,
        n_ubatch=n_ubatch,
        n_outputs=n_outputs,
        kv_type="f32",
        collect=collect,
    )
    client = WorkerClient(load)
    try:
        yield client
    finally:
        await client.aclose()


async def logits(
    client: WorkerClient, tokens: list[int], *, first_logits: int = 0, reuse_prefix: bool = False
) -> NDArray[np.float32]:
    async with measuring.evaluate(
        client, tokens, first_logits=first_logits, reuse_prefix=reuse_prefix
    ) as rows:
        return np.array(rows)


# Logits ----------------------------------------------------------------------------------------------------


async def test_logits_depend_only_on_the_tokens_before_them(tiny_moe: Path) -> None:
    async with measured(tiny_moe) as client:
        whole = await logits(client, TOKENS)
        part = await logits(client, TOKENS[:40], first_logits=30)
        other = await logits(client, [*TOKENS[:39], TOKENS[39] + 1], first_logits=30)
    assert whole.shape == (96, 1024)
    np.testing.assert_allclose(part, whole[30:40], atol=2e-5)
    np.testing.assert_allclose(other[:9], part[:9], atol=2e-5)
    assert np.abs(other[9] - part[9]).max() > 0.1


@pytest.mark.parametrize("n_outputs", [1, 7, 512])
async def test_how_many_logits_are_computed_at_once_changes_nothing(tiny_moe: Path, n_outputs: int) -> None:
    async with measured(tiny_moe) as client:
        expected = await logits(client, TOKENS, first_logits=70)
    async with measured(tiny_moe, n_outputs=n_outputs) as client:
        np.testing.assert_allclose(await logits(client, TOKENS, first_logits=70), expected, atol=2e-5)


@pytest.mark.parametrize("n_shared", [20, 60, 96])
async def test_a_reused_prefix_gives_the_logits_of_a_cold_start(tiny_moe: Path, n_shared: int) -> None:
    async with measured(tiny_moe) as client:
        cold = await logits(client, TOKENS, first_logits=50)
        await logits(client, [*TOKENS[:n_shared], 5, 6, 7])
        np.testing.assert_allclose(
            await logits(client, TOKENS, first_logits=50, reuse_prefix=True), cold, atol=2e-5
        )


async def test_a_model_that_cannot_forget_a_part_starts_again(tmp_path: Path) -> None:
    async with measured(write_tiny_mamba(tmp_path / "mamba.gguf")) as client:
        cold = await logits(client, TOKENS[:40], first_logits=30)
        await logits(client, [*TOKENS[:35], 5, 6, 7])
        warm = await logits(client, TOKENS[:40], first_logits=30, reuse_prefix=True)
    np.testing.assert_allclose(warm, cold, atol=2e-5)


async def test_measuring_and_chatting_do_not_disturb_each_other(tiny_moe: Path) -> None:
    async with measured(tiny_moe) as client:
        fresh, _ = await answer(client, ask("What is new?", max_tokens=16))
        expected = await logits(client, TOKENS)
        assert (await answer(client, ask("What is new?", max_tokens=16)))[0] == fresh
        np.testing.assert_allclose(await logits(client, TOKENS, reuse_prefix=True), expected, atol=2e-5)


async def test_a_cancelled_measurement_leaves_a_worker_that_measures(
    demo_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Request] = []
    send = WorkerProcess.send

    def recording(worker: WorkerProcess, request: Request) -> None:
        sent.append(request)
        send(worker, request)

    monkeypatch.setattr(WorkerProcess, "send", recording)
    long = [1000 + n for n in range(2048)]
    async with measured(demo_model, n_ubatch=512, n_ctx=2048) as client:
        await client.load()
        pid = client.worker_pid
        task = asyncio.create_task(logits(client, long, first_logits=2047))
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        evaluating, cancelling = sent[-2:]
        assert isinstance(evaluating, Evaluate)
        assert isinstance(cancelling, Cancel)
        assert cancelling.target == evaluating.id
        assert (await logits(client, TOKENS[:4])).shape == (4, 49152)
        assert client.worker_pid == pid


@pytest.mark.parametrize(
    ("tokens", "first_logits", "error"),
    [
        ([], 0, EngineError),
        ([5, 1024], 0, EngineError),
        ([5, -1], 0, EngineError),
        ([5] * 513, 512, ContextOverflow),
    ],
)
async def test_tokens_that_cannot_be_computed_are_refused(
    tiny_moe: Path, tokens: list[int], first_logits: int, error: type[EngineError]
) -> None:
    async with measured(tiny_moe) as client:
        with pytest.raises(error):
            await logits(client, tokens, first_logits=first_logits)
        assert (await logits(client, [5, 6])).shape == (2, 1024)


async def test_the_files_of_a_measurement_are_gone_afterwards(
    tiny_moe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "_SHARED_MEMORY", tmp_path)
    async with measured(tiny_moe) as client:
        async with measuring.evaluate(client, TOKENS):
            (folder,) = tmp_path.glob("edgeapp-*")
            assert folder.stat().st_mode & 0o077 == 0
        assert not list(tmp_path.glob("edgeapp-*"))


def test_what_a_killed_process_left_in_memory_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "_SHARED_MEMORY", tmp_path)
    abandoned, fresh = tmp_path / "edgeapp-abandoned", tmp_path / "edgeapp-fresh"
    for folder in (abandoned, fresh):
        folder.mkdir()
        (folder / "rows").write_bytes(b"x")
    os.utime(abandoned, (0, 0))
    with measuring.private_folder(1) as used:
        os.utime(used, (0, 0))
        with measuring.private_folder(1):
            assert used.exists()
    assert not abandoned.exists()
    assert fresh.exists()


def test_without_room_in_memory_the_cache_folder_is_used(
    isolated_user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "_SHARED_MEMORY", tmp_path / "missing")
    with measuring.private_folder(1000) as folder:
        assert isolated_user in folder.parents
    with pytest.raises(NotEnoughDisk), measuring.private_folder(1 << 60):
        pass


async def test_a_long_text_is_tokenised_in_pieces(tiny_moe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "TOKENIZED_CHARS", 10)
    async with measured(tiny_moe) as client:
        tokens = await measuring.tokenize_text(client, "0123456789" * 5)
        assert tokens == 5 * list(await client.tokenize("0123456789"))
        assert await measuring.tokenize_text(client, "0123456789" * 5, max_tokens=13) == tokens[:13]


async def test_a_bos_token_is_told_where_the_vocabulary_wants_one(tmp_path: Path) -> None:
    model = write_tiny_moe(tmp_path / "bos.gguf", add_bos=True)
    async with measured(model) as client:
        assert (await client.load()).bos == 1
        assert (await measuring.tokenize_text(client, "Hello"))[0] == 1


async def test_a_chat_neither_loads_numpy_nor_can_collect(tiny_moe: Path) -> None:
    async with real_engine(tiny_moe) as client:
        await answer(client, ask("hello"))
        assert "numpy" not in Path(f"/proc/{client.worker_pid}/maps").read_text()
        with pytest.raises(EngineError, match="not loaded to collect"):
            await measuring.collect(client, TOKENS)


# Activations -----------------------------------------------------------------------------------------------


def weights_of(model: Path) -> dict[str, NDArray[np.float32]]:
    return {tensor.name: np.array(tensor.data) for tensor in GGUFReader(model).tensors}


async def collected(model: Path, folder: Path, chunks: list[list[int]], kept: tuple[str, ...]) -> Imatrix:
    async with measured(model, collect=True, n_outputs=1) as client:
        for number, chunk in enumerate(chunks, 1):
            total = await measuring.collect(client, chunk, keep_inputs=kept, inputs_folder=folder)
            assert total == sum(map(len, chunks[:number]))
        await measuring.write_imatrix(client, folder / "imatrix.gguf", datasets=["a text"], chunk_size=48)
    return imatrix.read(folder / "imatrix.gguf")


async def test_the_first_layers_sums_are_those_of_the_normalised_embeddings(
    tiny_moe: Path, tmp_path: Path
) -> None:
    found = await collected(tiny_moe, tmp_path, [TOKENS[:48], TOKENS[48:]], ())
    embedded = weights_of(tiny_moe)["token_embd.weight"][TOKENS].astype(np.float64)
    normalised = embedded / np.sqrt((embedded**2).mean(axis=1, keepdims=True) + 1e-5)
    for name in ("attn_q", "attn_k", "attn_v"):
        assert found.counts[f"blk.0.{name}.weight"].tolist() == [96]
        np.testing.assert_allclose(
            found.entries[f"blk.0.{name}.weight"][0], (normalised**2).mean(axis=0), rtol=1e-5
        )
    assert (found.datasets, found.chunk_size) == (("a text",), 48)


async def test_experts_are_counted_and_summed_as_the_router_sends_tokens(
    tiny_moe: Path, tmp_path: Path
) -> None:
    router = "blk.1.ffn_gate_inp.weight"
    found = await collected(tiny_moe, tmp_path, [TOKENS], (router,))
    weights = weights_of(tiny_moe)
    inputs = measuring.kept_inputs(tmp_path, 0, n_tokens=96).astype(np.float64)
    assert inputs.shape == (96, N_EMBD)
    chosen = np.argsort(-(inputs @ weights[router].T), axis=1)[:, :N_EXPERT_USED]
    for expert in range(N_EXPERT):
        rows = inputs[(chosen == expert).any(axis=1)]
        gate = rows @ weights["blk.1.ffn_gate_exps.weight"][expert].T
        hidden = gate / (1 + np.exp(-gate)) * (rows @ weights["blk.1.ffn_up_exps.weight"][expert].T)
        for name, expected in (("gate", rows), ("up", rows), ("down", hidden)):
            tensor = f"blk.1.ffn_{name}_exps.weight"
            assert found.counts[tensor][expert] == len(rows) > 0
            row = found.row(tensor, expert)
            assert row is not None
            np.testing.assert_allclose(row, (expected**2).mean(axis=0), rtol=5e-3, err_msg=tensor)


async def test_the_last_layer_sees_every_token(tiny_moe: Path, tmp_path: Path) -> None:
    found = await collected(tiny_moe, tmp_path, [TOKENS], ())
    assert found.counts["blk.1.ffn_gate_inp.weight"].tolist() == [96]
    assert found.counts["blk.1.ffn_down_exps.weight"].sum() == 96 * N_EXPERT_USED
    assert len(found.entries) == 2 * 8
    assert "output.weight" not in found.entries


async def test_what_is_evaluated_is_not_collected(tiny_moe: Path, tmp_path: Path) -> None:
    async with measured(tiny_moe, collect=True) as client:
        await logits(client, TOKENS)
        with pytest.raises(EngineError, match="No activations"):
            await measuring.write_imatrix(client, tmp_path / "none.gguf", datasets=[], chunk_size=48)
        await measuring.collect(client, TOKENS[:48])
        await logits(client, TOKENS)
        await measuring.write_imatrix(client, tmp_path / "some.gguf", datasets=[], chunk_size=48)
    assert imatrix.read(tmp_path / "some.gguf").counts["blk.0.attn_q.weight"].tolist() == [48]


async def test_asking_to_keep_the_inputs_of_no_tensor_is_an_error(tiny_moe: Path, tmp_path: Path) -> None:
    await collected(tiny_moe, tmp_path, [TOKENS], ("blk.0.attn_q.weight", "blk.0.nothing.weight"))
    assert measuring.kept_inputs(tmp_path, 0, n_tokens=96).shape == (96, N_EMBD)
    with pytest.raises(EngineError, match="no input"):
        measuring.kept_inputs(tmp_path, 1, n_tokens=96)


async def test_inputs_that_are_not_numbers_are_an_error_and_not_a_matrix(tmp_path: Path) -> None:
    model = write_tiny_moe(tmp_path / "nan.gguf")
    data = bytearray(model.read_bytes())
    norm = next(t for t in GGUFReader(model).tensors if t.name == "blk.0.attn_norm.weight")
    data[norm.data_offset : norm.data_offset + 4] = np.float32("nan").tobytes()
    model.write_bytes(data)
    async with measured(model, collect=True) as client:
        with pytest.raises(EngineError, match="not a finite number"):
            await measuring.collect(client, TOKENS)

"""A model lies where the plan says, says the same wherever it lies, and a missing device is an error."""

from __future__ import annotations

import asyncio
import struct
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from edgeapp.errors import LoadFailed, NotEnoughMemory, UsageError
from edgeapp.protocol import BufferUse, Delta, Done, Drafting, Loaded, TensorOverride
from edgeapp.runtime.probing import list_devices
from tests.runtime.engines import ask, real_engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from edgeapp.runtime.worker_client import WorkerClient
    from tests.fake_gpu import FakeGpu

ALL_LAYERS = 999
EXPERTS = r"\.ffn_(up|down|gate)_exps"
MIB = 1024**2
N_TOKENS = 16


def on_cpu(*patterns: str) -> tuple[TensorOverride, ...]:
    return tuple(TensorOverride(pattern=pattern, buffer="CPU") for pattern in patterns)


PLACEMENTS: dict[str, dict[str, Any]] = {
    "all on the GPU": {"n_gpu_layers": ALL_LAYERS},
    "experts in host memory": {"n_gpu_layers": ALL_LAYERS, "tensor_overrides": on_cpu(EXPERTS)},
    "one layer on the CPU": {"n_gpu_layers": 2},
    "a part of a layer": {"n_gpu_layers": ALL_LAYERS, "tensor_overrides": on_cpu(r"blk\.1\.ffn_down")},
    "read, not mapped": {
        "n_gpu_layers": ALL_LAYERS,
        "tensor_overrides": on_cpu(r"blk\.1\..*_exps"),
        "load_mode": "none",
    },
}


@asynccontextmanager
async def placed(model: Path, **options: Any) -> AsyncIterator[WorkerClient]:
    """The CPU's repacked layout multiplies in another order than a device: it is left out."""
    async with real_engine(model, repack=False, **options) as client:
        yield client


async def tokens_of(client: WorkerClient) -> tuple[int, ...]:
    tokens: list[int] = []
    async for event in client.generate(
        ask("Name three colours", max_tokens=N_TOKENS, logprobs=0, drafting=Drafting(mode="off"))
    ):
        if isinstance(event, Delta):
            tokens += [one.token for one in event.logprobs]
    assert isinstance(event, Done), event
    return tuple(tokens)


def by_device(loaded: Loaded) -> dict[str, BufferUse]:
    return {use.device: use for use in loaded.buffers}


def total(use: BufferUse) -> int:
    return use.weights_bytes + use.kv_bytes + use.compute_bytes


async def test_the_same_tokens_come_out_wherever_the_model_lies(fake_gpu: FakeGpu, tiny_moe: Path) -> None:
    async with placed(tiny_moe) as client:
        expected = await tokens_of(client)
    assert len(expected) == N_TOKENS
    for name, placement in PLACEMENTS.items():
        async with placed(tiny_moe, device=fake_gpu.name, **placement) as client:
            loaded = await client.load()
            assert by_device(loaded).keys() == {"CPU", fake_gpu.name}, name
            assert await tokens_of(client) == expected, name


async def test_a_dense_model_says_the_same_when_a_part_of_it_is_on_the_gpu(
    fake_gpu: FakeGpu, demo_model: Path
) -> None:
    async with placed(demo_model) as client:
        expected = await tokens_of(client)
    async with placed(demo_model, device=fake_gpu.name, n_gpu_layers=20) as client:
        assert await tokens_of(client) == expected
        used = by_device(await client.load())[fake_gpu.name]
        assert total(used) == fake_gpu.used_bytes()
        assert used.weights_bytes > 50 * MIB
        assert min(used.kv_bytes, used.compute_bytes) > 1 * MIB


async def test_an_override_can_bring_a_tensor_to_the_gpu_from_a_layer_on_the_cpu(
    fake_gpu: FakeGpu, tiny_moe: Path
) -> None:
    here = (TensorOverride(pattern=EXPERTS, buffer=fake_gpu.name),)
    async with placed(tiny_moe, device=fake_gpu.name, n_gpu_layers=0, tensor_overrides=here) as client:
        used = by_device(await client.load())[fake_gpu.name]
    assert used.weights_bytes > 0
    assert used.kv_bytes == 0


async def test_without_a_device_no_gpu_is_touched(fake_gpu: FakeGpu, tiny_moe: Path) -> None:
    async with placed(tiny_moe, n_gpu_layers=ALL_LAYERS) as client:
        loaded = await client.load()
        assert by_device(loaded).keys() == {"CPU"}
        assert fake_gpu.used_bytes() == 0


async def test_a_model_that_lies_on_the_cpu_outlives_the_gpu(fake_gpu: FakeGpu, tiny_moe: Path) -> None:
    async with placed(tiny_moe) as client:
        await client.load()
        pid = client.worker_pid
        fake_gpu.kill()
        assert len(await tokens_of(client)) == N_TOKENS
        assert client.worker_pid == pid


@pytest.mark.parametrize(("free_mib", "n_ctx"), [(0, 512), (8, 65536)])
async def test_too_little_gpu_memory_is_an_error_with_numbers_and_leaves_nothing_behind(
    free_mib: int, n_ctx: int, fake_gpu: FakeGpu, tiny_moe: Path
) -> None:
    """With 8 MiB the weights fit, but not a KV cache of 16 MiB."""
    fake_gpu.set_free(free_mib)
    async with placed(tiny_moe, device=fake_gpu.name, n_gpu_layers=ALL_LAYERS, n_ctx=n_ctx) as client:
        with pytest.raises(NotEnoughMemory, match=r"MiB of RPC0\[127.0.0.1:\d+\] could not be had"):
            await client.load()
    assert fake_gpu.used_bytes() == 0


async def test_an_unknown_gpu_is_an_error_that_names_the_known_ones(
    fake_gpu: FakeGpu, tiny_moe: Path
) -> None:
    async with placed(tiny_moe, device="CUDA7", n_gpu_layers=1) as client:
        with pytest.raises(UsageError, match=r"CUDA7.*There are: RPC0"):
            await client.load()


async def test_a_gpu_that_has_gone_is_named_in_the_error(fake_gpu: FakeGpu, tiny_moe: Path) -> None:
    fake_gpu.kill()
    async with placed(tiny_moe, device="RPC0", n_gpu_layers=1) as client:
        with pytest.raises(UsageError, match=f"{fake_gpu.endpoint} cannot be reached"):
            await client.load()


async def test_servers_that_do_not_answer_or_are_none_are_left_out(
    fake_gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEAPP_RPC_SERVERS", f"nonsense, 127.0.0.1:1 ,{fake_gpu.endpoint}")
    found = await list_devices()
    assert [(device.name, device.kind, device.total_bytes) for device in found[1:]] == [
        ("RPC0", "gpu", 1024 * MIB)
    ]


async def test_a_server_that_speaks_another_version_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp would abort the worker."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(33)
        writer.write(struct.pack("<Q4B24x", 28, 3, 0, 0, 0))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv("EDGEAPP_RPC_SERVERS", f"127.0.0.1:{port}")
        assert [device.kind for device in await list_devices()] == ["cpu"]


async def test_quantised_keys_and_values_work_on_the_gpu(fake_gpu: FakeGpu, demo_model: Path) -> None:
    async with placed(demo_model, device=fake_gpu.name, n_gpu_layers=ALL_LAYERS, kv_type="q4_0") as client:
        assert len(await tokens_of(client)) == N_TOKENS


async def test_a_kv_type_that_the_model_cannot_have_is_an_error(tiny_moe: Path) -> None:
    """Its heads are 16 long, a block is 32."""
    async with placed(tiny_moe, kv_type="q8_0") as client:
        with pytest.raises(LoadFailed, match="block size 32") as caught:
            await client.load()
    assert "--kv f16" in caught.value.hint


def test_only_one_copy_of_ggml_is_loaded() -> None:
    """A wheel holds each library under three names; a device made by one copy is strange to another."""
    code = """
from edgeapp.engine import bindings
bindings.start()
bindings.devices()
files = {line.split()[-1] for line in open("/proc/self/maps") if "/libggml" in line}
assert len(files) == len({file.partition(".so")[0] for file in files}), files
"""
    subprocess.run([sys.executable, "-c", code], check=True)

"""What a probe says is what the real load takes, for every placement and context."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from edgeapp.errors import LoadFailed, UsageError
from edgeapp.protocol import ProbeShape, TensorOverride
from edgeapp.runtime.probing import probe
from tests.model_shapes import write_shape
from tests.runtime.engines import real_engine

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgeapp.protocol import BufferUse
    from tests.fake_gpu import FakeGpu

ALL_LAYERS = 999
EXPERTS_ON_CPU = (TensorOverride(pattern=r"\.ffn_(up|down|gate)_exps", buffer="CPU"),)
GIB = 1024**3


def shape(**options: Any) -> ProbeShape:
    return ProbeShape(**({"n_ctx": 512, "n_ubatch": 512} | options))


async def probed(path: Path, shapes: Sequence[ProbeShape]) -> list[dict[str, BufferUse]]:
    _, found = await probe(path, shapes, n_threads=1)
    return [{use.device: use for use in uses} for uses in found]


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("tiny_moe", {"device": "RPC0", "n_gpu_layers": ALL_LAYERS, "tensor_overrides": EXPERTS_ON_CPU}),
        ("tiny_moe", {"n_parallel": 6, "n_ctx": 256}),
        ("demo_model", {"device": "RPC0", "n_gpu_layers": 20, "n_ctx": 1024, "kv_type": "q8_0"}),
    ],
)
async def test_a_probe_says_what_the_real_load_takes(
    model: str, options: dict[str, Any], fake_gpu: FakeGpu, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(model)
    (found,) = await probed(path, [shape(**options)])
    async with real_engine(path, load_mode="none", **options) as client:
        loaded = await client.load()
    assert found == {use.device: use for use in loaded.buffers}


async def test_an_override_moves_exactly_the_tensors_it_names(fake_gpu: FakeGpu, tiny_moe: Path) -> None:
    names = [(), (r"blk\.0\..*_exps",), (r"_exps",)]
    overrides = [tuple(TensorOverride(pattern=one, buffer="CPU") for one in some) for some in names]
    shapes = [shape(device="RPC0", n_gpu_layers=ALL_LAYERS, tensor_overrides=moved) for moved in overrides]
    on_gpu = [uses["RPC0"].weights_bytes for uses in await probed(tiny_moe, shapes)]
    assert on_gpu[0] - on_gpu[1] > 0
    assert on_gpu[0] - on_gpu[2] == 2 * (on_gpu[0] - on_gpu[1])


async def test_answers_come_in_the_order_of_the_questions(fake_gpu: FakeGpu, demo_model: Path) -> None:
    """Shapes with the same placement of the weights are asked together."""
    shapes = [
        shape(n_ctx=1024),
        shape(n_ctx=256, device="RPC0", n_gpu_layers=ALL_LAYERS),
        shape(n_ctx=2048),
        shape(n_ctx=512, device="RPC0", n_gpu_layers=ALL_LAYERS),
    ]
    found = await probed(demo_model, shapes)
    kv_bytes = [sum(use.kv_bytes for use in uses.values()) for uses in found]
    assert [n // kv_bytes[1] for n in kv_bytes] == [4, 1, 8, 2]
    assert [list(uses) for uses in found] == [["CPU"], ["CPU", "RPC0"]] * 2


async def test_kv_types_take_what_their_blocks_take(demo_model: Path) -> None:
    """Blocks of 32 numbers: 64 bytes in F16, 34 in Q8_0, 18 in Q4_0."""
    found = await probed(demo_model, [shape(kv_type=kv_type) for kv_type in ("f16", "q8_0", "q4_0")])
    kv_bytes = [uses["CPU"].kv_bytes for uses in found]
    assert [n * 64 // kv_bytes[0] for n in kv_bytes] == [64, 34, 18]


async def test_a_model_that_fits_nowhere_is_probed_without_its_weights(
    fake_gpu: FakeGpu, tmp_path: Path
) -> None:
    """48 layers, 17 GB, no tokenizer; the file is sparse and the GPU has 1 GiB."""
    path = write_shape("qwen3-30b-a3b", tmp_path / "model.gguf")
    shapes = [
        shape(n_ctx=n_ctx, n_ubatch=n_ubatch, device="RPC0", n_gpu_layers=ALL_LAYERS)
        for n_ctx, n_ubatch in ((4096, 512), (4096, 2048), (65536, 512), (65536, 2048))
    ]
    found = [uses["RPC0"] for uses in await probed(path, shapes)]
    assert all(use.weights_bytes > 16 * GIB for use in found)
    assert found[2].kv_bytes == 48 * 65536 * 2 * 4 * 128 * 2  # layers, tokens, K and V, heads, length, F16
    assert found[0].compute_bytes < min(found[1].compute_bytes, found[2].compute_bytes)
    assert found[3].compute_bytes > max(found[1].compute_bytes, found[2].compute_bytes)
    assert fake_gpu.used_bytes() == 0


async def test_a_context_that_llama_cpp_refuses_has_no_buffers(tiny_moe: Path) -> None:
    """Heads of 16 numbers cannot be stored in blocks of 32."""
    found = await probed(tiny_moe, [shape(kv_type="q8_0"), shape()])
    assert found[0] == {}
    assert found[1]["CPU"].kv_bytes > 0


async def test_a_file_that_is_no_model_and_a_gpu_that_is_none_are_errors(
    tiny_moe: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.gguf").write_text("no model")
    with pytest.raises(LoadFailed):
        await probed(tmp_path / "text.gguf", [shape()])
    with pytest.raises(UsageError, match="knows no GPU 'RPC0'"):
        await probed(tiny_moe, [shape(device="RPC0")])

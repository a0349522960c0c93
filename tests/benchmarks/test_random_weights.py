"""Random models for speed measurements: sane numbers, true sizes, and llama.cpp runs them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from benchmarks.gpu.weights import TINY, _Pools, size_bytes, write_random
from edgeapp.gguf_info import read_gguf_info
from edgeapp.protocol import Done, Generate, Load, Sampling
from edgeapp.runtime.worker_client import WorkerClient

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def tiny_random(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random("tiny", TINY, tmp_path_factory.mktemp("random") / "tiny.gguf")


@pytest.mark.parametrize("type_name", ["Q4_K", "Q5_0", "Q6_K", "Q8_0", "MXFP4"])
@pytest.mark.parametrize("n_row", [768, 2048, 7168])
def test_weights_are_as_large_as_a_trained_models(type_name: str, n_row: int) -> None:
    ggml_type = GGMLQuantizationType[type_name]
    _, block_bytes = GGML_QUANT_SIZES[ggml_type]
    blocks = np.frombuffer(_Pools()._blocks(type_name, n_row, block_bytes), np.uint8)
    values = quants.dequantize(blocks.reshape(-1, block_bytes), ggml_type)
    assert np.isfinite(values).all()
    assert 0.7 < values.std() * math.sqrt(n_row) < 1.4


def test_a_model_has_the_announced_size(tiny_random: Path) -> None:
    info = read_gguf_info(tiny_random)
    assert info.tensor_bytes <= size_bytes(TINY) < tiny_random.stat().st_size


def test_the_same_model_is_written_every_time(tiny_random: Path, tmp_path: Path) -> None:
    again = write_random("tiny", TINY, tmp_path / "again.gguf")
    assert again.read_bytes() == tiny_random.read_bytes()


async def test_a_letter_is_a_token_and_the_model_writes_on(tiny_random: Path) -> None:
    engine = WorkerClient(Load(path=str(tiny_random), n_ctx=512, n_threads=1))
    try:
        await engine.load()
        request = Generate(prompt="abcdefgh" * 8, sampling=Sampling(temp=0), max_tokens=4, ignore_eos=True)
        done = [event async for event in engine.generate(request) if isinstance(event, Done)]
    finally:
        await engine.aclose()
    assert (done[0].usage.prompt_tokens, done[0].usage.completion_tokens) == (64, 4)

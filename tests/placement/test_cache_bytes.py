"""llama.cpp's own figures: its log lines "size = … MiB (… cells, … layers" of a `no_alloc` context of these
models, with 5 sequences (1 where layers are recurrent) in one pool of cells, at llama.cpp 0c1e57098."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgeapp.engine.load_options import SPARE_SEQUENCES as ENGINE_SPARE_SEQUENCES
from edgeapp.gguf_info import read_gguf_info
from edgeapp.placement.cache_bytes import SPARE_SEQUENCES, can_store, layer_cache_bytes, layer_read_bytes
from edgeapp.placement.shape import ModelShape, model_shape
from tests.model_shapes import write_shape
from tests.placement.made import MIB, SHAPE

if TYPE_CHECKING:
    from pathlib import Path

    from edgeapp.placement.wishes import KvType


def shape_of(name: str, folder: Path) -> ModelShape:
    return model_shape(read_gguf_info(write_shape(name, folder / f"{name}.gguf")))


def total_mib(
    shape: ModelShape,
    n_ctx: int,
    kv_type: KvType = "f16",
    *,
    n_ubatch: int = 512,
    n_parallel: int = 1,
    swa_full: bool = True,
) -> float:
    layers = layer_cache_bytes(
        shape, n_ctx=n_ctx, n_ubatch=n_ubatch, kv_type=kv_type, n_parallel=n_parallel, swa_full=swa_full
    )
    return sum(layers) / MIB


@pytest.mark.parametrize(
    ("name", "f16_4096_mib", "q8_0_16384_mib"),
    [
        ("qwen3-30b-a3b", 384.00, 816.00),
        ("gpt-oss-20b", 192.00, 408.00),
        ("glm-4.5-air", 736.00, 1564.00),
        ("deepseek-v3", 274.50, 583.31),
        ("deepseek-v2-lite", 121.50, 258.19),
        ("lfm2-8b-a1b", 48.28, 102.28),
        ("granite-4.0-h-small", 211.48, 283.48),
        ("llama-4-scout", 768.00, 1632.00),
        ("qwen3-next-80b-a3b", 171.38, 279.38),
    ],
)
def test_the_cache_is_as_large_as_llama_cpp_makes_it(
    name: str, f16_4096_mib: float, q8_0_16384_mib: float, tmp_path: Path
) -> None:
    shape = shape_of(name, tmp_path)
    assert total_mib(shape, 4096) == pytest.approx(f16_4096_mib, abs=0.01)
    assert total_mib(shape, 16384, "q8_0") == pytest.approx(q8_0_16384_mib, abs=0.01)


def test_a_window_alone_is_that_of_every_sequence_and_a_micro_batch(tmp_path: Path) -> None:
    shape = shape_of("gpt-oss-20b", tmp_path)
    assert total_mib(shape, 4096, swa_full=False) == pytest.approx(126.00)
    assert total_mib(shape, 16384, "q8_0", n_ubatch=2048, swa_full=False) == pytest.approx(239.06, abs=0.01)
    assert total_mib(shape, 512, swa_full=False) == total_mib(shape, 512)


def test_recurrent_states_are_kept_for_every_answer_and_not_for_every_token(tmp_path: Path) -> None:
    shape = shape_of("qwen3-next-80b-a3b", tmp_path)
    assert total_mib(shape, 512, n_parallel=3) == pytest.approx(238.12, abs=0.01)
    state = total_mib(shape, 8192) - 2 * total_mib(shape, 4096)
    assert -state == pytest.approx((238.12 - total_mib(shape, 512)) / 2, abs=0.01)


def test_layers_without_attention_and_for_multi_token_prediction_keep_nothing(tmp_path: Path) -> None:
    layers = layer_cache_bytes(
        shape_of("glm-4.5-air", tmp_path), n_ctx=4096, n_ubatch=512, kv_type="f16", n_parallel=1
    )
    assert layers[-1] == 0
    assert all(layers[:-1])


def test_the_context_is_rounded_up_as_llama_cpp_does() -> None:
    assert total_mib(SHAPE, 257) == total_mib(SHAPE, 512) == 2 * total_mib(SHAPE, 256)


@pytest.mark.parametrize(
    ("kv_type", "bytes_of_32"),
    [("f16", 64), ("q8_0", 34), ("q5_1", 24), ("q5_0", 22), ("q4_1", 20), ("q4_0", 18)],
)
def test_types_take_their_blocks(kv_type: KvType, bytes_of_32: int) -> None:
    assert total_mib(SHAPE, 4096, kv_type) / total_mib(SHAPE, 4096) == bytes_of_32 / 64
    assert can_store(SHAPE, kv_type)


def test_a_token_reads_what_was_written_before_it() -> None:
    read = layer_read_bytes(SHAPE, n_text=100, kv_type="f16")
    assert read == [100 * 2 * 512 * 2] * 48


def test_the_engine_has_as_many_sequences_as_the_planner_counts() -> None:
    assert ENGINE_SPARE_SEQUENCES == SPARE_SEQUENCES

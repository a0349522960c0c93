from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeapp.errors import NotEnoughMemory, UsageError
from edgeapp.gguf_info import GgufInfo, read_gguf_info
from edgeapp.hardware import Gpu, Host
from edgeapp.placement.plan import COMPUTE_BYTES, DEFAULT_MAX_CTX, GPU_RESERVE_BYTES, plan

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1024**3
HOST = Host(
    total_ram_bytes=32 * GIB,
    available_ram_bytes=28 * GIB,
    total_swap_bytes=0,
    free_swap_bytes=0,
    cpu_model="test",
    physical_cores=6,
    logical_cores=12,
)


def _gpu(free_bytes: int) -> Gpu:
    return Gpu(
        index=0,
        name="test",
        total_bytes=24 * GIB,
        free_bytes=free_bytes,
        driver_version="1",
        compute_capability=(8, 6),
    )


@pytest.fixture(scope="module")
def moe(tiny_moe: Path) -> GgufInfo:
    """A 30B-class MoE by its numbers: 18 GiB, of which 17 are experts."""
    return replace(
        read_gguf_info(tiny_moe),
        tensor_bytes=18 * GIB,
        expert_bytes=17 * GIB,
        dense_bytes=1 * GIB,
        n_ctx_train=40960,
        kv_bytes_per_token=98304,
    )


def test_a_model_that_fits_goes_to_the_gpu_whole(moe: GgufInfo) -> None:
    placed = plan(moe, HOST, [_gpu(23 * GIB)])
    assert (placed.n_gpu_layers > 48, placed.cpu_experts) == (True, False)


def test_experts_stay_in_host_memory_when_only_the_rest_fits(moe: GgufInfo) -> None:
    placed = plan(moe, HOST, [_gpu(8 * GIB)])
    assert (placed.n_gpu_layers > 48, placed.cpu_experts) == (True, True)


def test_a_gpu_without_room_for_the_dense_part_is_left_alone(moe: GgufInfo) -> None:
    placed = plan(moe, HOST, [_gpu(2 * GIB)])
    assert placed.n_gpu_layers == 0
    assert "GPU" in placed.reason


def test_without_a_gpu_everything_is_in_host_memory(moe: GgufInfo) -> None:
    assert plan(moe, HOST, []).n_gpu_layers == 0


def test_a_model_larger_than_memory_is_refused_with_both_numbers(moe: GgufInfo) -> None:
    with pytest.raises(NotEnoughMemory, match=r"19\.\d GiB of memory, 8\.0 GiB are available") as caught:
        plan(moe, replace(HOST, available_ram_bytes=8 * GIB), [])
    assert caught.value.needed_bytes > caught.value.free_bytes == 8 * GIB


def test_the_default_context_is_the_trained_one_up_to_a_limit(moe: GgufInfo) -> None:
    assert plan(moe, HOST, []).n_ctx == DEFAULT_MAX_CTX
    assert plan(replace(moe, n_ctx_train=2048), HOST, []).n_ctx == 2048


def test_a_wanted_context_is_kept_or_refused_and_never_shrunk(moe: GgufInfo) -> None:
    assert plan(moe, HOST, [], ctx=32768).n_ctx == 32768
    assert plan(moe, HOST, [], ctx=1000).n_ctx == 1024, "llama.cpp rounds up too"
    with pytest.raises(UsageError, match="40960"):
        plan(moe, HOST, [], ctx=40961)


def test_threads_are_the_physical_cores_unless_chosen(moe: GgufInfo) -> None:
    assert plan(moe, HOST, []).n_threads == 6
    assert plan(moe, HOST, [], threads=3).n_threads == 3


@given(
    free_bytes=st.integers(0, 24 * GIB),
    ram_bytes=st.integers(0, 64 * GIB),
    dense_bytes=st.integers(1, 8 * GIB),
    expert_bytes=st.integers(0, 40 * GIB),
    ctx=st.integers(64, 40960),
)
def test_no_plan_exceeds_what_is_free(
    moe: GgufInfo, free_bytes: int, ram_bytes: int, dense_bytes: int, expert_bytes: int, ctx: int
) -> None:
    info = replace(
        moe, tensor_bytes=dense_bytes + expert_bytes, dense_bytes=dense_bytes, expert_bytes=expert_bytes
    )
    host = replace(HOST, available_ram_bytes=ram_bytes)
    try:
        placed = plan(info, host, [_gpu(free_bytes)], ctx=ctx)
    except NotEnoughMemory:
        return
    on_gpu = placed.n_gpu_layers > 0
    on_gpu_bytes = on_gpu * (dense_bytes + (0 if placed.cpu_experts else expert_bytes))
    assert ctx <= placed.n_ctx < ctx + 256
    kv_bytes = 98304 * placed.n_ctx
    in_ram_bytes = info.tensor_bytes - on_gpu_bytes + COMPUTE_BYTES
    if on_gpu:
        assert on_gpu_bytes + kv_bytes + COMPUTE_BYTES <= free_bytes - GPU_RESERVE_BYTES
    else:
        in_ram_bytes += kv_bytes
    assert in_ram_bytes <= ram_bytes


def test_left_conversations_get_a_tenth_of_the_free_memory_up_to_a_limit(moe: GgufInfo) -> None:
    small = replace(moe, tensor_bytes=GIB, expert_bytes=0, dense_bytes=GIB)
    assert plan(moe, HOST, []).cache_ram_bytes == 2 * GIB
    assert plan(small, replace(HOST, available_ram_bytes=10 * GIB), []).cache_ram_bytes == GIB
    assert plan(moe, HOST, [], cache_ram_bytes=0).cache_ram_bytes == 0
    assert plan(moe, HOST, [], cache_ram_bytes=GIB).cache_ram_bytes == GIB
    with pytest.raises(UsageError, match=r"29\.0 GiB .* 28\.0 GiB are available"):
        plan(moe, HOST, [], cache_ram_bytes=29 * GIB)

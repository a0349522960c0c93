from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeapp.errors import NotEnoughMemory, UsageError
from edgeapp.placement.compute_need import ComputeNeed
from edgeapp.placement.machine import Machine  # noqa: TC001 - hypothesis reads the annotations
from edgeapp.placement.plan import DEFAULT_MAX_CTX, PlacementPlan, plan
from edgeapp.placement.shape import ModelShape  # noqa: TC001 - hypothesis reads the annotations
from edgeapp.placement.wishes import WORKLOADS, Wishes, Workload
from tests.placement.made import GIB, MIB, NEED, SHAPE, made_machine, made_shape

QUICK = settings(max_examples=40, deadline=None)
SHAPES = st.builds(
    made_shape,
    n_layer=st.integers(1, 12),
    dense_mib=st.integers(1, 400),
    gate_up_mib=st.integers(1, 900),
    down_mib=st.integers(1, 900),
    n_expert=st.sampled_from([0, 8, 128]),
    output_mib=st.integers(0, 900),
    head_dim=st.sampled_from([64, 80, 128]),
    is_recurrent=st.booleans(),
)
MACHINES = st.builds(
    made_machine,
    st.floats(0, 26),
    available_bytes=st.integers(1, 64 * GIB),
    can_offload=st.booleans(),
)
WISHES = st.builds(
    Wishes,
    n_ctx=st.integers(0, 40960),
    kv_type=st.sampled_from([None, "f16", "q8_0"]),
    may_quantise_kv=st.booleans(),
    n_ubatch=st.sampled_from([0, 64, 512, 3000]),
    n_threads=st.integers(0, 4),
    n_parallel=st.integers(1, 8),
    cpu_expert_layers=st.none() | st.integers(0, 14),
    load_mode=st.sampled_from([None, "mmap", "none"]),
    max_vram_bytes=st.none() | st.integers(0, 30 * GIB),
    reserve_bytes=st.none() | st.integers(0, 3 * GIB),
    max_ram_bytes=st.none() | st.integers(0, 64 * GIB),
    cache_ram_bytes=st.none() | st.integers(0, GIB),
    use_gpu=st.booleans(),
    workload=st.builds(Workload, n_prompt=st.integers(1, 20000), n_answer=st.integers(1, 2000)),
)


def planned(
    shape: ModelShape = SHAPE, machine: Machine | None = None, wishes: Wishes | None = None
) -> PlacementPlan:
    need = NEED if shape is SHAPE else ComputeNeed.assumed(shape)
    return plan(shape, machine or made_machine(12), need, wishes or Wishes())


# Where things go -----------------------------------------------------------------------------------------


def test_a_model_that_fits_goes_to_the_gpu_whole() -> None:
    placed = planned(machine=made_machine(24))
    assert (placed.n_gpu_layers, placed.tensor_overrides, placed.cpu_layers) == (49, (), ())
    assert placed.reason.startswith("everything on the GPU")


def test_experts_of_the_last_layers_leave_first() -> None:
    placed = planned(machine=made_machine(12))
    n = len(placed.cpu_expert_layers)
    assert 0 < n < 48
    assert placed.cpu_expert_layers == tuple(range(48 - n, 48))
    assert (placed.n_gpu_layers, placed.cpu_layers) == (49, ())


def test_the_patterns_take_the_experts_of_these_layers_and_nothing_else() -> None:
    placed = planned(machine=made_machine(12))
    patterns = [re.compile(override.pattern) for override in placed.tensor_overrides]
    assert {override.buffer for override in placed.tensor_overrides} == {"CPU"}
    for layer in range(48):
        names = [f"blk.{layer}.ffn_{part}_exps.weight" for part in ("gate", "up", "down")]
        moved = [name for name in names if any(pattern.search(name) for pattern in patterns)]
        assert bool(moved) == (layer in placed.cpu_expert_layers), layer
        for dense in ("ffn_gate_inp", "ffn_up_shexp", "attn_q", "ffn_down"):
            assert not any(pattern.search(f"blk.{layer}.{dense}.weight") for pattern in patterns)


def test_the_first_layers_leave_whole_when_what_every_token_needs_does_not_fit() -> None:
    placed = planned(machine=made_machine(1.8))
    n = len(placed.cpu_layers)
    assert 0 < n < 48
    assert placed.cpu_layers == tuple(range(n))
    assert placed.n_gpu_layers == 49 - n
    assert placed.cpu_expert_layers == tuple(range(48))
    assert placed.ram.kv == n * placed.vram.kv // (48 - n), "a layer's cache goes with it"


def test_a_dense_model_gives_up_layers() -> None:
    dense = made_shape(n_layer=40, dense_mib=400, n_expert=0)
    placed = planned(dense, made_machine(12))
    assert 0 < len(placed.cpu_layers) < 40
    assert (placed.tensor_overrides, placed.cpu_expert_layers) == ((), ())


def test_without_a_gpu_everything_is_in_host_memory() -> None:
    for machine, wishes in ((made_machine(), Wishes()), (made_machine(24), Wishes(use_gpu=False))):
        placed = planned(machine=machine, wishes=wishes)
        assert (placed.n_gpu_layers, placed.device, placed.vram.total) == (0, "", 0)
        assert placed.reason.startswith("everything in RAM")


def test_a_gpu_that_only_slows_down_is_left_alone() -> None:
    machine = made_machine(24)
    assert machine.device is not None
    slow = replace(machine.device, read_bps=1e9, compute_flops=1e10, pinned_bps=1e8, pageable_bps=1e8)
    placed = planned(machine=replace(machine, device=slow))
    assert placed.device == ""
    assert "The CPU alone is faster with this model than together with this GPU." in placed.reasons


# The context ---------------------------------------------------------------------------------------------


def test_the_default_context_is_the_trained_one_up_to_a_limit() -> None:
    assert planned().n_ctx == DEFAULT_MAX_CTX
    assert planned(made_shape(n_ctx_train=2048)).n_ctx == 2048


def test_a_context_is_kept_by_moving_experts_and_never_shrunk() -> None:
    short, long = (planned(wishes=Wishes(n_ctx=n_ctx)) for n_ctx in (4096, 40960))
    assert (short.n_ctx, long.n_ctx) == (4096, 40960)
    assert len(long.cpu_expert_layers) > len(short.cpu_expert_layers)
    assert planned(wishes=Wishes(n_ctx=1000)).n_ctx == 1024, "llama.cpp rounds up too"


def test_a_context_beyond_the_trained_one_is_refused() -> None:
    with pytest.raises(UsageError, match="40960"):
        planned(wishes=Wishes(n_ctx=40961))


# Micro-batch, load mode, KV type -------------------------------------------------------------------------


def test_long_prompts_get_a_larger_micro_batch_and_pay_with_experts() -> None:
    chat = planned(wishes=Wishes(n_ctx=32768, workload=WORKLOADS["chat"]))
    prefill = planned(wishes=Wishes(n_ctx=32768, workload=WORKLOADS["prefill"]))
    assert prefill.n_ubatch > chat.n_ubatch
    assert len(prefill.cpu_expert_layers) >= len(chat.cpu_expert_layers)


def test_a_micro_batch_is_never_longer_than_the_context() -> None:
    assert planned(wishes=Wishes(n_ctx=256)).n_ubatch == 256
    assert planned(wishes=Wishes(n_ctx=1024, n_ubatch=4096)).n_ubatch == 1024


def test_experts_in_ram_are_page_locked_where_there_is_room() -> None:
    assert planned(machine=made_machine(8)).load_mode == "none"
    assert planned(machine=made_machine(8, available_bytes=9 * GIB)).load_mode == "mmap"
    assert planned(machine=made_machine(24)).load_mode == "mmap", "nothing is copied from there"
    assert planned(machine=made_machine(8, can_offload=False)).load_mode == "mmap"


def test_weights_that_do_not_fit_in_ram_are_said_to_be_paged_and_predicted_slow() -> None:
    fits = planned(machine=made_machine(6))
    pages = planned(machine=made_machine(6, available_bytes=8 * GIB))
    assert (fits.paged_bytes, fits.repack) == (0, True)
    assert pages.paged_bytes > 5 * GIB
    assert not pages.repack
    assert pages.ram.total <= pages.ram.budget
    assert pages.predicted.decode_tps < fits.predicted.decode_tps / 4
    assert any("read from the disk again and again" in reason for reason in pages.reasons)


def test_a_smaller_kv_type_needs_permission_and_has_to_pay() -> None:
    wishes = Wishes(n_ctx=40960)
    assert planned(machine=made_machine(6), wishes=wishes).kv_type == "f16"
    allowed = replace(wishes, may_quantise_kv=True)
    small = planned(machine=made_machine(4.5), wishes=allowed)
    assert (small.kv_type, small.flash_attn) == ("q8_0", "on")
    assert planned(machine=made_machine(24), wishes=allowed).kv_type == "f16", "it would gain too little"


def test_a_kv_type_that_does_not_divide_the_heads_is_refused_or_not_taken() -> None:
    odd = made_shape(head_dim=80)
    allowed = Wishes(n_ctx=40960, may_quantise_kv=True)
    assert planned(odd, made_machine(4.5), allowed).kv_type == "f16"
    with pytest.raises(UsageError, match="80 values"):
        planned(odd, wishes=Wishes(kv_type="q8_0"))


# Budgets and pins ----------------------------------------------------------------------------------------


def test_threads_are_the_physical_cores_unless_chosen() -> None:
    assert planned().n_threads == 6
    assert planned(wishes=Wishes(n_threads=3)).n_threads == 3


def test_left_conversations_get_what_is_over_up_to_a_limit() -> None:
    assert planned(machine=made_machine(24)).cache_ram_bytes == 2 * GIB
    assert planned(machine=made_machine(8, available_bytes=10 * GIB)).cache_ram_bytes == 0
    assert planned(wishes=Wishes(cache_ram_bytes=0)).cache_ram_bytes == 0
    assert planned(wishes=Wishes(cache_ram_bytes=GIB)).cache_ram_bytes == GIB
    with pytest.raises(UsageError, match=r"29\.0 GiB .* 28\.0 GiB are available"):
        planned(wishes=Wishes(cache_ram_bytes=29 * GIB))


def test_pinned_experts_are_where_they_were_put() -> None:
    assert planned(wishes=Wishes(cpu_expert_layers=45)).cpu_expert_layers == tuple(range(3, 48))
    assert planned(wishes=Wishes(cpu_expert_layers=99)).cpu_expert_layers == tuple(range(48))
    chosen = tuple(range(5, 47))
    assert planned(wishes=Wishes(cpu_expert_layers=chosen)).cpu_expert_layers == chosen
    with pytest.raises(UsageError, match="Layer 48 has no routed experts"):
        planned(wishes=Wishes(cpu_expert_layers=(47, 48)))


def test_a_layer_for_multi_token_prediction_weighs_nothing_but_is_counted() -> None:
    nothing = replace(SHAPE.layers[0], dense_bytes=0, gate_up_bytes=0, down_bytes=0)
    placed = planned(replace(SHAPE, layers=(*SHAPE.layers, nothing)), made_machine(24))
    assert placed.n_gpu_layers == 50


@QUICK
@given(shape=SHAPES, machine=MACHINES, wishes=WISHES)
def test_every_plan_keeps_its_budgets_and_every_promise(
    shape: ModelShape, machine: Machine, wishes: Wishes
) -> None:
    try:
        placed = planned(shape, machine, wishes)
    except UsageError:
        return
    except NotEnoughMemory as problem:
        _assert_says_what_is_missing(problem)
        return
    _assert_within_budgets(placed, machine)
    _assert_promises(placed, shape, machine, wishes)


def _assert_says_what_is_missing(problem: NotEnoughMemory) -> None:
    assert problem.needed_bytes > problem.free_bytes
    assert problem.hint.startswith("Would fit: ")


def _assert_within_budgets(placed: PlacementPlan, machine: Machine) -> None:
    vram, ram = placed.vram, placed.ram
    assert vram.total == vram.weights + vram.kv + vram.compute <= max(vram.budget, 0)
    assert ram.weights + ram.kv + ram.compute + placed.cache_ram_bytes == ram.total <= ram.budget
    assert ram.budget <= machine.host.available_ram_bytes
    if machine.device and placed.device:
        assert vram.budget <= machine.device.free_bytes
    assert placed.predicted.request_s > 0


def _assert_promises(placed: PlacementPlan, shape: ModelShape, machine: Machine, wishes: Wishes) -> None:
    assert placed.n_ubatch <= placed.n_ctx
    assert placed.n_ubatch == min(wishes.n_ubatch, placed.n_ctx) or not wishes.n_ubatch
    assert placed.n_ctx - 256 < wishes.n_ctx <= placed.n_ctx or not wishes.n_ctx
    assert placed.kv_type == (wishes.kv_type or placed.kv_type)
    assert placed.kv_type == "f16" or wishes.kv_type or wishes.may_quantise_kv
    assert placed.n_threads == (wishes.n_threads or machine.host.n_threads)
    assert placed.n_parallel == wishes.n_parallel
    assert placed.load_mode == (wishes.load_mode or placed.load_mode)
    assert placed.cache_ram_bytes == wishes.cache_ram_bytes or wishes.cache_ram_bytes is None
    assert not placed.device or wishes.use_gpu
    if machine.device and wishes.use_gpu and wishes.cpu_expert_layers is not None:
        n_layers = min(int(str(wishes.cpu_expert_layers)), len(shape.expert_layers))
        assert len(placed.cpu_expert_layers) == n_layers


@QUICK
@given(shape=SHAPES, machine=MACHINES, wishes=WISHES, more_bytes=st.integers(1, 8 * GIB))
def test_more_gpu_memory_is_never_slower(
    shape: ModelShape, machine: Machine, wishes: Wishes, more_bytes: int
) -> None:
    wishes = replace(wishes, may_quantise_kv=False)
    if machine.device is None:
        return
    device = replace(
        machine.device,
        free_bytes=machine.device.free_bytes + more_bytes,
        total_bytes=machine.device.total_bytes + more_bytes,
    )
    try:
        small = planned(shape, machine, wishes)
    except (NotEnoughMemory, UsageError):
        return
    large = planned(shape, replace(machine, device=device), wishes)
    assert large.predicted.request_s <= small.predicted.request_s * (1 + 1e-9)


def test_the_sentence_has_the_numbers() -> None:
    placed = planned(wishes=Wishes(n_ctx=32768, workload=Workload(n_prompt=2048, n_answer=400)))
    assert re.fullmatch(
        r"\d+ of 48 expert layers in RAM(, one of them in part)?; \d+\.\d of 11\.0 GiB VRAM; "
        r"context 32k kept; about \d+ tok/s; first token of a 2k prompt in \d+\.\d s",
        placed.reason,
    )
    assert placed.bottleneck == "reading experts from host memory"


def test_the_tied_embedding_is_on_the_gpu_a_second_time() -> None:
    tied = replace(SHAPE, output_bytes=170 * MIB, tied_bytes=170 * MIB)
    on_gpu, in_ram = planned(tied, made_machine(24)), planned(tied, made_machine())
    assert on_gpu.vram.weights + on_gpu.ram.weights == tied.weight_bytes + 170 * MIB
    assert in_ram.ram.weights == tied.weight_bytes, "the mapped file holds it once"

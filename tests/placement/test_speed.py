"""The price list against speeds that people reported. The machine is described from its data sheet."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from edgeapp.gguf_info import read_gguf_info
from edgeapp.placement.assumed import assumed_device
from edgeapp.placement.compute_need import ComputeNeed
from edgeapp.placement.machine import HostFacts, Machine
from edgeapp.placement.plan import PlacementPlan, plan
from edgeapp.placement.shape import ModelShape, model_shape
from edgeapp.placement.wishes import Wishes, Workload
from tests.model_shapes import write_shape
from tests.placement.made import GIB, SHAPE, made_machine

if TYPE_CHECKING:
    from pathlib import Path


def machine(card: str, ram_bps: float) -> Machine:
    host = HostFacts(
        total_ram_bytes=96 * GIB,
        available_ram_bytes=90 * GIB,
        n_threads=8,
        ram_read_bps=ram_bps * 0.55,
        compute_flops=5e11,
    )
    device = assumed_device(name="CUDA0", description=card, total_bytes=64 * GIB, free_bytes=64 * GIB)
    return Machine(host=host, device=device, is_measured=True)


def shape(name: str, folder: Path) -> ModelShape:
    return model_shape(read_gguf_info(write_shape(name, folder / f"{name}.gguf")))


def predicted(
    model: ModelShape, on: Machine, n_cpu_layers: int, *, n_prompt: int = 512, n_ubatch: int = 512
) -> PlacementPlan:
    wishes = Wishes(
        n_ctx=16384,
        cpu_expert_layers=n_cpu_layers,
        n_ubatch=n_ubatch,
        workload=Workload(n_prompt=n_prompt, n_answer=128),
    )
    return plan(model, on, ComputeNeed.assumed(model), wishes)


@pytest.mark.parametrize(
    ("name", "card", "ram_bps", "n_cpu_layers", "reported_tps"),
    [
        ("qwen3-30b-a3b", "RTX 3090 Ti", 80e9, 0, 167),  # smeltcore.com
        ("qwen3-30b-a3b", "RTX 4090", 80e9, 0, 196),  # runaihome.com
        ("gpt-oss-20b", "RTX 4090", 80e9, 0, 225),  # runaihome.com
        ("qwen3-30b-a3b", "RTX 2080", 102e9, 36, 36.7),  # llmfit#755
        ("gpt-oss-120b", "RTX 3090", 90e9, 36, 25.6),  # gokawiil.com/article/74814
    ],
)
def test_decode_is_within_a_third_of_what_was_reported(
    name: str, card: str, ram_bps: float, n_cpu_layers: int, reported_tps: float, tmp_path: Path
) -> None:
    placed = predicted(shape(name, tmp_path), machine(card, ram_bps), n_cpu_layers)
    assert placed.predicted.decode_tps == pytest.approx(reported_tps, rel=0.33)


@pytest.mark.parametrize(("n_ubatch", "reported_tps"), [(2048, 1113), (4096, 1682), (8192, 2091)])
def test_prefill_with_offloaded_experts_is_within_a_third_of_what_was_reported(
    n_ubatch: int, reported_tps: float, tmp_path: Path
) -> None:
    """gpt-oss-120b on a 3090, experts of 25 to 28 layers in page-locked memory (ai-maestro)."""
    placed = predicted(
        shape("gpt-oss-120b", tmp_path), machine("RTX 3090", 90e9), 26, n_prompt=8192, n_ubatch=n_ubatch
    )
    assert placed.load_mode == "none"
    assert placed.predicted.prefill_tps == pytest.approx(reported_tps, rel=0.33)


def prefill_s(on: Machine, **changes: object) -> float:
    wishes = Wishes(cpu_expert_layers=40, n_ubatch=512)
    return plan(SHAPE, on, ComputeNeed.assumed(SHAPE), replace(wishes, **changes)).predicted.ttft_s  # type: ignore[arg-type]


def test_page_locked_experts_are_copied_faster() -> None:
    on = made_machine(12)
    assert prefill_s(on, load_mode="none") < prefill_s(on, load_mode="mmap") / 1.3


def test_without_offloading_the_cpu_computes_the_experts() -> None:
    copied, computed = (prefill_s(made_machine(12, can_offload=can_offload)) for can_offload in (True, False))
    assert computed > 2 * copied


def test_a_few_tokens_are_not_worth_the_copy() -> None:
    """Below 32 tokens llama.cpp computes where the weights are."""
    on = made_machine(12)
    below, above = (prefill_s(on, workload=Workload(n_prompt=n_prompt, n_answer=1)) for n_prompt in (31, 32))
    as_slow = prefill_s(replace(on, device=None), workload=Workload(n_prompt=31, n_answer=1))
    assert below < as_slow
    slow_bus = replace(on, device=replace(on.device, pinned_bps=1e9, pageable_bps=1e9)) if on.device else on
    assert prefill_s(slow_bus, workload=Workload(n_prompt=31, n_answer=1)) == below
    assert prefill_s(slow_bus, workload=Workload(n_prompt=32, n_answer=1)) > above


def test_a_longer_text_reads_more_of_the_cache() -> None:
    short, long = (
        plan(
            SHAPE, made_machine(24), ComputeNeed.assumed(SHAPE), Wishes(n_ctx=32768, workload=workload)
        ).predicted.decode_tps
        for workload in (Workload(n_prompt=100, n_answer=10), Workload(n_prompt=30000, n_answer=10))
    )
    assert long < 0.8 * short

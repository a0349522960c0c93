from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgeapp.errors import NotEnoughMemory
from edgeapp.placement.wishes import WORKLOADS, Wishes
from edgeapp.profiles.machine_profile import MachineProfile, Speeds, write_profile
from edgeapp.profiles.tuned import Choices, Tuned, model_key, write_tuned
from edgeapp.runtime.planning import EngineChoice, machine_facts, planned
from edgeapp.runtime.worker_client import WorkerClient
from tests.runtime.engines import GREEDY, answer, ask

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fake_gpu import FakeGpu

MIB = 1 << 20


async def test_without_a_gpu_no_process_is_started(tiny_moe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEAPP_RPC_SERVERS", raising=False)
    monkeypatch.setattr("edgeapp.runtime.planning.questions", None)
    made = await planned(tiny_moe, Wishes())
    assert (made.plan.device, made.plan.n_gpu_layers) == ("", 0)


async def test_a_plan_for_a_gpu_holds_when_it_is_carried_out(demo_model: Path, fake_gpu: FakeGpu) -> None:
    made = await planned(demo_model, Wishes(n_ctx=1024))
    choice = EngineChoice(planned=made)
    client = WorkerClient(choice.load)
    try:
        loaded = await client.load()
    finally:
        await client.aclose()
    (on_gpu,) = [use for use in loaded.buffers if use.device == made.plan.device]
    predicted = made.plan.vram
    assert made.plan.device == fake_gpu.name
    assert (on_gpu.weights_bytes, on_gpu.kv_bytes) == (predicted.weights, predicted.kv)
    assert on_gpu.compute_bytes <= predicted.compute
    assert predicted.total <= predicted.budget


async def test_another_plan_within_less_memory_answers_the_same(demo_model: Path, fake_gpu: FakeGpu) -> None:
    choice = EngineChoice(planned=await planned(demo_model, Wishes(n_ctx=512)))
    less = await choice.again(max_vram_bytes=choice.planned.plan.vram.total - 1)
    assert less.planned.plan.vram.total < choice.planned.plan.vram.total
    texts = []
    for one in (choice, less):
        client = WorkerClient(one.load)
        try:
            texts.append((await answer(client, ask("Hello", max_tokens=12, sampling=GREEDY)))[0])
        finally:
            await client.aclose()
    assert texts[0] == texts[1]
    assert less.planned.wishes == choice.planned.wishes
    assert fake_gpu.used_bytes(0) == 0


async def test_measured_speeds_replace_the_assumed_ones(tiny_moe: Path) -> None:
    facts = await machine_facts()
    speeds = Speeds(ram_read_bps=1e9, host_flops=1e9, n_threads_best=1)
    write_profile(MachineProfile(key=facts.key, speeds=speeds, measured_at_s=0))
    made = await planned(tiny_moe, Wishes())
    assert made.machine.is_measured
    assert (made.machine.host.ram_read_bps, made.plan.n_threads) == (1e9, 1)


async def test_what_tuning_found_fills_the_gaps_between_the_wishes(tiny_moe: Path) -> None:
    facts, chat = await machine_facts(), WORKLOADS["chat"]
    plain = await planned(tiny_moe, Wishes(n_ctx=512))
    tuned = Tuned(
        machine=facts.key,
        model=model_key(plain.info),
        workload=(chat.n_prompt, chat.n_answer),
        n_ctx=512,
        choices=Choices(n_ubatch=256, n_threads=1, repack=False),
        predicted_s=plain.plan.predicted.request_s,
        planned_predicted_s=plain.plan.predicted.request_s,
        actual_s=1,
        planned_actual_s=2,
        decode_tps=1,
        prefill_tps=1,
        tuned_at_s=0,
    )
    write_tuned(tuned)
    made = await planned(tiny_moe, Wishes(n_ctx=512))
    assert (made.plan.n_ubatch, made.plan.n_threads, made.plan.repack) == (256, 1, False)
    pinned = await planned(tiny_moe, Wishes(n_ctx=512, n_threads=2))
    assert pinned.plan.n_threads == 2
    untuned = await planned(tiny_moe, Wishes(n_ctx=512), is_tuned=False)
    assert untuned.plan.n_ubatch == plain.plan.n_ubatch


async def test_a_cap_that_nothing_fits_says_what_would(tiny_moe: Path, fake_gpu: FakeGpu) -> None:
    with pytest.raises(NotEnoughMemory) as caught:
        await planned(tiny_moe, Wishes(n_ctx=512, max_vram_bytes=0, cpu_expert_layers=0))
    assert "--cpu-experts" in caught.value.hint
    assert fake_gpu.used_bytes(0) == 0

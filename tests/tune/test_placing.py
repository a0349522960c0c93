"""From choices to what is loaded, with the real planner on this machine; and back at the next start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.hardware import read_host
from edgeapp.placement.wishes import Wishes
from edgeapp.profiles.machine_profile import MachineProfile, Speeds, machine_key
from edgeapp.profiles.tuned import Choices
from edgeapp.runtime.planning import planned
from edgeapp.tune.keeping import keep
from edgeapp.tune.placing import planner
from edgeapp.tune.trials import Actual
from edgeapp.tune.tuning import Trial

if TYPE_CHECKING:
    from pathlib import Path

WISHES = Wishes(n_ctx=512, use_gpu=False)
CHOICES = Choices(n_threads=1, n_ubatch=256, repack=False)


def a_profile() -> MachineProfile:
    speeds = Speeds(ram_read_bps=9e9, host_flops=8e10, n_threads_best=2)
    return MachineProfile(
        key=machine_key(read_host(), ()), speeds=speeds, measured_at_s=1.0, assumed_ram_read_bps=2e10
    )


async def test_choices_reach_the_load_and_nothing_of_a_try_stays(tiny_moe: Path) -> None:
    place = planner(await planned(tiny_moe, WISHES, is_tuned=False), a_profile())
    as_planned, chosen = place(Choices()).load, place(CHOICES).load
    assert (chosen.n_threads, chosen.n_ubatch, chosen.repack) == (1, 256, False)
    assert as_planned.repack
    for load in (as_planned, chosen):
        assert (load.prefix_folder, load.cache_ram_bytes, load.n_ctx) == ("", 0, 512)


async def test_the_record_of_a_try_knows_what_memory_usually_reads(tiny_moe: Path) -> None:
    place = planner(await planned(tiny_moe, WISHES, is_tuned=False), a_profile())
    expected = place(CHOICES).expected
    assert (expected.model, expected.assumed_ram_read_bps) == (tiny_moe.name, 2e10)
    assert not expected.plan.repack


async def test_the_next_start_uses_what_was_kept_and_the_user_still_decides(tiny_moe: Path) -> None:
    first = await planned(tiny_moe, WISHES)
    place = planner(first, a_profile())
    trials = [
        Trial(
            choices=choices,
            placed=place(choices),
            actual=Actual(prefill_tps=500.0, decode_tps=50.0, request_s=request_s, n_repeats=1),
        )
        for choices, request_s in ((Choices(), 10.0), (CHOICES, 8.0))
    ]
    keep(first.info, WISHES, a_profile().key, trials=trials, best=trials[1])
    tuned = (await planned(tiny_moe, WISHES)).plan
    assert (tuned.n_threads, tuned.n_ubatch, tuned.repack) == (1, 256, False)
    pinned = (await planned(tiny_moe, Wishes(n_ctx=512, use_gpu=False, n_threads=2))).plan
    assert (pinned.n_threads, pinned.n_ubatch) == (2, 256)
    untuned = (await planned(tiny_moe, WISHES, is_tuned=False)).plan
    assert untuned.repack

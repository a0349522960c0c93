"""Choices that were measured are used for the same model and workload, and never against the user."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from edgeapp.gguf_info import read_gguf_info
from edgeapp.placement.wishes import WORKLOADS, Wishes
from edgeapp.profiles.machine_profile import MachineKey
from edgeapp.profiles.tuned import (
    Choices,
    Tuned,
    forget_tuned,
    model_key,
    read_tuned,
    still_pays,
    tuned_wishes,
    write_tuned,
)

if TYPE_CHECKING:
    from edgeapp.gguf_info import GgufInfo

CHAT = WORKLOADS["chat"]
MACHINE = MachineKey(
    cpu_model="a CPU", physical_cores=8, logical_cores=16, ram_gib=32, device="", binding_version="1"
)
CHOICES = Choices(n_ubatch=2048, n_threads=7, load_mode="none", cpu_expert_layers=30, repack=False)


def a_tuned(info: GgufInfo, **changed: Any) -> Tuned:
    tuned = Tuned(
        machine=MACHINE,
        model=model_key(info),
        workload=(CHAT.n_prompt, CHAT.n_answer),
        n_ctx=0,
        choices=CHOICES,
        predicted_s=10.0,
        planned_predicted_s=10.0,
        actual_s=8.0,
        planned_actual_s=11.0,
        decode_tps=20.0,
        prefill_tps=300.0,
        tuned_at_s=1.0,
    )
    return replace(tuned, **changed)


@pytest.fixture
def info(tiny_moe: Path, tmp_path: Path) -> GgufInfo:
    """A model of the test's own, which it may change."""
    return read_gguf_info(Path(shutil.copy(tiny_moe, tmp_path / "own.gguf")))


def test_choices_come_back_for_the_same_model_workload_and_context(info: GgufInfo) -> None:
    assert read_tuned(info, CHAT, 0, MACHINE) is None
    write_tuned(a_tuned(info))
    assert read_tuned(info, CHAT, 0, MACHINE) == a_tuned(info)
    assert read_tuned(info, WORKLOADS["prefill"], 0, MACHINE) is None
    assert read_tuned(info, CHAT, 4096, MACHINE) is None
    assert read_tuned(info, CHAT, 0, replace(MACHINE, device="RTX 4090")) is None


def test_a_model_that_was_replaced_is_tuned_again(info: GgufInfo) -> None:
    write_tuned(a_tuned(info))
    os.utime(info.path, (1, 1))
    assert read_tuned(info, CHAT, 0, MACHINE) is None


def test_a_model_that_is_gone_has_no_choices(info: GgufInfo) -> None:
    write_tuned(a_tuned(info))
    info.path.unlink()
    assert read_tuned(info, CHAT, 0, MACHINE) is None


def test_each_workload_keeps_its_own_choices(info: GgufInfo) -> None:
    write_tuned(a_tuned(info))
    write_tuned(a_tuned(info, workload=(8192, 256), choices=Choices(n_threads=3)))
    forget_tuned(info, CHAT, 0, MACHINE)
    forget_tuned(info, CHAT, 0, MACHINE)
    assert read_tuned(info, CHAT, 0, MACHINE) is None
    prefill = read_tuned(info, WORKLOADS["prefill"], 0, MACHINE)
    assert prefill is not None
    assert prefill.choices == Choices(n_threads=3)


def test_choices_fill_what_the_user_left_open() -> None:
    wishes = tuned_wishes(Wishes(n_ctx=4096), CHOICES)
    assert (wishes.n_ubatch, wishes.n_threads, wishes.load_mode, wishes.cpu_expert_layers) == (
        2048,
        7,
        "none",
        30,
    )
    assert wishes.n_ctx == 4096


def test_what_the_user_pinned_stays() -> None:
    pinned = Wishes(n_ubatch=512, n_threads=2, load_mode="mmap", cpu_expert_layers=0)
    assert tuned_wishes(pinned, CHOICES) == pinned


def test_no_choice_leaves_the_wishes_alone() -> None:
    assert tuned_wishes(Wishes(), Choices()) == Wishes()


@pytest.mark.parametrize(
    ("predicted_s", "planned_s", "tuned_s", "pays"),
    [
        (10.0, 10.0, 10.5, True),  # as when it was measured
        (14.0, 10.0, 14.5, True),  # the planner was wrong about it then, and is still
        (10.0, 10.0, 15.0, False),  # more memory is free now: the planner's own choice is better
        (8.0, 10.0, 10.5, True),
    ],
)
def test_tuned_choices_are_kept_while_the_planner_thinks_no_worse_of_them(
    info: GgufInfo, *, predicted_s: float, planned_s: float, tuned_s: float, pays: bool
) -> None:
    tuned = a_tuned(info, predicted_s=predicted_s)
    assert still_pays(tuned, planned_s=planned_s, tuned_s=tuned_s) is pays

from __future__ import annotations

from dataclasses import replace

import pytest

from edgeapp.placement.budget import default_reserve_bytes, ram_budget_bytes, vram_budget_bytes
from edgeapp.placement.wishes import Wishes
from tests.placement.made import GIB, MIB, made_device, made_host


@pytest.mark.parametrize(
    ("total_gib", "reserve_mib"), [(2, 256), (4, 327), (8, 655), (12, 983), (16, 1024), (80, 1024)]
)
def test_the_reserve_is_a_gibibyte_or_a_part_of_a_small_card(total_gib: int, reserve_mib: int) -> None:
    assert default_reserve_bytes(made_device(total_gib * GIB)) // MIB == reserve_mib


def test_a_cap_holds_whatever_is_free() -> None:
    device = made_device(24 * GIB)
    assert vram_budget_bytes(device, Wishes(max_vram_bytes=12 * GIB)) == 12 * GIB
    assert vram_budget_bytes(device, Wishes(max_vram_bytes=48 * GIB)) == 23 * GIB
    asked = Wishes(max_vram_bytes=12 * GIB, reserve_bytes=2 * GIB)
    assert vram_budget_bytes(device, asked) == 10 * GIB


def test_what_others_use_is_not_ours() -> None:
    device = replace(made_device(24 * GIB), free_bytes=6 * GIB)
    assert vram_budget_bytes(device, Wishes()) == 5 * GIB
    assert vram_budget_bytes(device, Wishes(max_vram_bytes=12 * GIB)) == 5 * GIB
    assert vram_budget_bytes(device, Wishes(reserve_bytes=0)) == 6 * GIB
    assert vram_budget_bytes(device, Wishes(reserve_bytes=9 * GIB)) == 0


@pytest.mark.parametrize(
    ("total_gib", "available_gib", "kept_mib"),
    [(8, 6, 512), (32, 28, 1638), (256, 200, 4096), (32, 4, 1024)],
)
def test_some_host_memory_stays_free_for_the_rest_of_the_system(
    total_gib: int, available_gib: int, kept_mib: int
) -> None:
    host = replace(made_host(), total_ram_bytes=total_gib * GIB, available_ram_bytes=available_gib * GIB)
    budget = ram_budget_bytes(host, Wishes())
    assert (host.available_ram_bytes - budget) // MIB == kept_mib
    assert ram_budget_bytes(host, Wishes(max_ram_bytes=GIB)) == GIB

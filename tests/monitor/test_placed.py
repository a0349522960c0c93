from __future__ import annotations

from edgeapp.monitor.placed import placed_experts
from edgeapp.placement.plan import plan
from edgeapp.placement.wishes import Wishes
from tests.placement.made import NEED, SHAPE, made_machine


def places(vram_gib: float, *, cpu_expert_layers: int | tuple[int, ...] | None = None) -> list[str]:
    made = plan(SHAPE, made_machine(vram_gib), NEED, Wishes(cpu_expert_layers=cpu_expert_layers, n_ctx=4096))
    return list(placed_experts(made, SHAPE.expert_layers))


def test_without_a_gpu_all_experts_are_in_ram() -> None:
    assert places(0) == ["ram"] * 48


def test_with_a_large_gpu_none_are() -> None:
    assert places(40) == ["gpu"] * 48


def test_layers_that_the_user_names_are_in_ram_and_no_others() -> None:
    placed = places(40, cpu_expert_layers=(3, 5))

    assert [layer for layer, place in enumerate(placed) if place == "ram"] == [3, 5]
    assert placed.count("gpu") == 46


def test_a_layer_that_is_split_is_partly_on_the_gpu() -> None:
    seen = [places(vram_gib / 4) for vram_gib in range(24, 44)]

    assert any("partial" in placed for placed in seen)
    assert all(placed.count("partial") <= 1 for placed in seen)
    assert [placed.count("gpu") for placed in seen] == sorted(placed.count("gpu") for placed in seen)


def test_only_layers_with_experts_have_a_place() -> None:
    made = plan(SHAPE, made_machine(12), NEED, Wishes(n_ctx=4096))

    assert len(placed_experts(made, SHAPE.expert_layers[3:])) == 45

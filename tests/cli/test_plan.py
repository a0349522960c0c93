from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.processes import edgeapp
from tests.fake_gpu import fake_gpu
from tests.model_shapes import write_shape

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fake_gpu import FakeGpu

GIB = 1 << 30
CONTRACT = {
    "n_ctx", "n_gpu_layers", "tensor_overrides", "n_ubatch", "n_batch", "kv_type", "load_mode", "flash_attn",
    "threads", "vram", "ram", "predicted", "reasons",
}  # fmt: skip


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shape("qwen3-30b-a3b", tmp_path_factory.mktemp("shapes") / "qwen3-30b-a3b.gguf")


@pytest.fixture(scope="module")
def gpu() -> Iterator[FakeGpu]:
    with fake_gpu(total_mib=8192) as gpu:
        yield gpu


@pytest.fixture
def card(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine sees a GPU of 8 GiB."""
    for name, value in gpu.environment.items():
        monkeypatch.setenv(name, value)


def planned(model: Path, *flags: str) -> dict[str, Any]:
    result = edgeapp("plan", model, "--json", *flags)
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.mark.usefixtures("card")
def test_experts_go_to_host_memory_where_the_card_is_too_small(qwen: Path) -> None:
    plan = planned(qwen, "--ctx", "16384")
    assert set(plan) >= CONTRACT
    assert plan["n_ctx"] == 16384
    assert plan["vram"]["total"] <= plan["vram"]["budget"] < 8 * GIB
    assert plan["tensor_overrides"][0]["buffer"] == "CPU"
    assert 0 < len(plan["cpu_expert_layers"]) < 48
    assert {"weights", "kv", "compute", "total", "budget"} == set(plan["vram"]) == set(plan["ram"])
    assert plan["predicted"]["decode_tps"] > 0
    assert f"{len(plan['cpu_expert_layers'])} of 48 expert layers in RAM" in plan["reasons"][0]
    assert plan["what_if"]


@pytest.mark.usefixtures("card")
def test_wishes_are_kept(qwen: Path) -> None:
    plan = planned(qwen, "--cpu-experts", "12-47,3", "--kv", "q8_0", "--ubatch", "1024", "--max-ram", "20G")
    assert plan["cpu_expert_layers"] == [3, *range(12, 48)]
    assert (plan["kv_type"], plan["n_ubatch"]) == ("q8_0", 1024)
    assert plan["ram"]["budget"] <= 20 * GIB


@pytest.mark.usefixtures("card")
def test_the_text_explains(qwen: Path) -> None:
    shown = edgeapp("plan", str(qwen)).stdout
    for part in ("expert layers in RAM", "VRAM", "bottleneck", "Why", "What if", "24 GiB VRAM", "▒"):
        assert part in shown


def test_a_preset_stands_for_its_workload(tiny_moe: Path) -> None:
    asked = [
        planned(tiny_moe, "--for", name)["predicted"]["request_s"] for name in ("extract", "prefill", "chat")
    ]
    assert asked[0] == pytest.approx(asked[1])
    assert asked[0] != pytest.approx(asked[2])


@pytest.mark.usefixtures("card")
def test_what_cannot_be_names_the_nearest_wishes(qwen: Path) -> None:
    result = edgeapp("plan", str(qwen), "--cpu-experts", "0")
    assert result.returncode == 1
    assert "--cpu-experts" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--for", "singing"), "chat, prefill, kiosk"),
        (("--cpu-experts", "9-3"), "3-9"),
        (("--cpu-experts", "many"), "cpu_experts must be"),
        (("--max-vram", "lots"), "max_vram must be"),
        (("--ctx", "9000000"), "was trained for"),
    ],
)
def test_nonsense_is_a_usage_error(qwen: Path, flags: tuple[str, ...], said: str) -> None:
    result = edgeapp("plan", str(qwen), *flags)
    assert result.returncode == 2
    assert said in result.stderr


def test_without_a_gpu_the_plan_is_the_cpu(tiny_moe: Path) -> None:
    plan = planned(tiny_moe)
    assert (plan["device"], plan["n_gpu_layers"], plan["vram"]["total"]) == ("", 0, 0)
    assert plan["what_if"] == []

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeapp.monitor.overview import Overview
from edgeapp.tui.memory_bars import line_len
from edgeapp.tui.memory_view import MemoryView, memory_lines, natural_height, plain_text
from tests.monitor.memory_samples import a_gpu, a_sample, some_ram
from tests.tui.memory_views import a_view, an_engine


def shown(view: MemoryView, *, width: int = 78, height: int | None = None) -> str:
    return plain_text(memory_lines(view, width=width, height=height))


def test_a_machine_with_a_gpu_and_an_engine_is_shown_whole() -> None:
    text = shown(a_view())

    assert "GPU 0  GeForce RTX 4060  5.0 of 8.0 GiB used · 45 % busy · 61 °C · 98 of 115 W" in text
    assert "█ weights 3.0  ▓ KV cache 0.5" in text
    assert "▞ firefox 0.5" in text
    assert "RAM" in text
    assert "12.0 of 32.0 GiB used · swap 2.0 of 8.0 GiB" in text
    assert "● Qwen3-30B-A3B  chat" in text
    assert "38.5 tok/s" in text
    assert "█ 11 ▒ 1 ░ 36" in text
    assert "PCIe ×8 of ×16 lanes" in text


def test_without_a_gpu_and_an_engine_both_are_said_not_to_be_there() -> None:
    text = shown(MemoryView(overview=Overview(sample=a_sample())))

    assert "No GPU" in text
    assert "No engine is running" in text
    assert "RAM" in text


def test_no_swap_is_said() -> None:
    view = MemoryView(overview=Overview(sample=a_sample(ram=some_ram(total_swap_bytes=0))))

    assert "no swap" in shown(view)


def test_a_lost_gpu_is_said_to_be_lost() -> None:
    text = shown(a_view(lost=True))

    assert "lost: the driver cannot reach it" in text
    assert "××××" in text
    assert "weights 3.0" not in text


def test_a_clock_that_is_held_down_is_said_with_its_reason() -> None:
    overview = Overview(sample=a_sample(replace(a_gpu(), throttles=("thermal",))))

    assert "clock held down by thermal" in shown(MemoryView(overview=overview))


def test_with_few_rows_pictures_of_the_past_go_before_legends_and_bars_stay() -> None:
    text = shown(a_view(), height=8)

    assert "▂▃" not in text
    assert "████" in text
    assert "Qwen3-30B-A3B" in text
    assert "RAM" in text


def test_when_even_the_bars_do_not_fit_the_end_is_marked() -> None:
    assert shown(a_view(n_gpus=6), height=5).splitlines()[-1] == "…"


@given(
    width=st.integers(1, 300),
    height=st.none() | st.integers(1, 80),
    n_gpus=st.integers(0, 3),
    n_engines=st.integers(0, 3),
    n_layers=st.integers(0, 128),
)
def test_no_line_is_wider_and_no_view_higher_than_its_place(
    *, width: int, height: int | None, n_gpus: int, n_engines: int, n_layers: int
) -> None:
    engines = (an_engine(model="模型 with a name that is long", n_layers=n_layers),) * n_engines
    lines = memory_lines(a_view(n_gpus=n_gpus, engines=engines), width=width, height=height)

    assert height is None or len(lines) <= height
    assert all(line_len(line) <= width for line in lines)


@pytest.mark.parametrize("width", [30, 78, 200])
def test_the_natural_height_leaves_nothing_out(width: int) -> None:
    view = a_view()
    height = natural_height(view, width)

    assert shown(view, width=width, height=height) == shown(view, width=width)

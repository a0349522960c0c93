from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from edgeapp.monitor.overview import Overview
from edgeapp.tui.top import TopApp
from edgeapp.tui.widgets.memory_panel import MemoryPanel
from tests.monitor.memory_samples import GIB, a_gpu, a_sample
from tests.tui.memory_views import an_engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from textual.pilot import Pilot


class Machine:
    """What the screen looks at; a test changes `gpu_free_bytes`."""

    def __init__(self) -> None:
        self.gpu_free_bytes = 3 * GIB
        self.n_looks = 0

    def look(self) -> Overview:
        self.n_looks += 1
        gpu = replace(a_gpu(), free_bytes=self.gpu_free_bytes)
        return Overview(sample=a_sample(gpu), engines=(an_engine(),))


@asynccontextmanager
async def open_top(
    machine: Machine, *, size: tuple[int, int] = (80, 24)
) -> AsyncIterator[tuple[TopApp, Pilot[None]]]:
    app = TopApp(machine.look, interval_s=0.1)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: app.panel.view is not None)
        yield app, pilot


async def until(pilot: Pilot[None], condition: Callable[[], object]) -> None:
    for _ in range(500):
        if condition():
            await pilot.pause()
            return
        await pilot.pause(0.01)
    raise AssertionError("the screen never got there")


def screen(app: TopApp) -> str:
    return "\n".join(row.text for row in app.screen._compositor.render_strips())


async def test_memory_and_engines_are_on_the_screen_and_follow_the_machine() -> None:
    machine = Machine()
    async with open_top(machine) as (app, pilot):
        assert "5.0 of 8.0 GiB" in screen(app)
        assert "Qwen3-30B-A3B" in screen(app)

        machine.gpu_free_bytes = GIB
        await until(pilot, lambda: "7.0 of 8.0 GiB" in screen(app))


async def test_p_holds_the_picture_and_p_again_lets_it_go_on() -> None:
    machine = Machine()
    async with open_top(machine) as (app, pilot):
        await pilot.press("p")
        machine.gpu_free_bytes = GIB
        await pilot.pause(0.3)
        assert "5.0 of 8.0 GiB" in screen(app)
        assert "paused" in screen(app)

        await pilot.press("p")
        await until(pilot, lambda: "7.0 of 8.0 GiB" in screen(app))


async def test_a_panel_that_is_not_shown_does_not_look() -> None:
    machine = Machine()
    async with open_top(machine) as (app, pilot):
        app.panel.display = False
        await pilot.pause(0.2)
        n_looks = machine.n_looks
        await pilot.pause(0.3)
        assert machine.n_looks == n_looks

        app.panel.display = True
        await until(pilot, lambda: machine.n_looks > n_looks)


async def test_the_help_explains_the_characters_and_goes_away() -> None:
    async with open_top(Machine()) as (app, pilot):
        await pilot.press("question_mark")
        assert "compute buffers" in screen(app)
        assert "GeForce RTX 4060" in screen(app)

        await pilot.press("escape")
        assert "compute buffers" not in screen(app)


async def test_q_ends_it() -> None:
    async with open_top(Machine()) as (app, pilot):
        await pilot.press("q")
        await until(pilot, lambda: not app.is_running)


async def test_the_picture_fills_a_large_terminal_and_fits_a_tiny_one() -> None:
    async with open_top(Machine(), size=(300, 80)) as (app, _):
        bar = max(screen(app).splitlines(), key=lambda line: line.count("·"))
        assert len(bar.strip()) == 298

    async with open_top(Machine(), size=(30, 6)) as (app, _):
        assert all(len(line) <= 30 for line in screen(app).splitlines())
        assert "GPU 0" in screen(app)


async def test_the_panel_takes_only_the_rows_that_it_needs_where_it_may() -> None:
    async with open_top(Machine(), size=(80, 50)) as (app, pilot):
        panel = app.query_one(MemoryPanel)
        panel.styles.height = "auto"
        await pilot.pause()

        assert 8 <= panel.size.height <= 20

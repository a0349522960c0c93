"""One picture per state of `edgeapp top`. After a wanted change: `pytest tests/tui --snapshot-update`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from edgeapp.monitor.overview import Overview
from edgeapp.tui.top import TopApp
from tests.monitor.memory_samples import a_gpu, a_sample
from tests.tui.memory_views import an_engine

if TYPE_CHECKING:
    from textual.pilot import Pilot

SIZE_CELLS = (100, 24)


class SnapCompare(Protocol):
    def __call__(self, app: TopApp, *, terminal_size: tuple[int, int], run_before: object) -> bool: ...


def top(overview: Overview) -> TopApp:
    return TopApp(lambda: overview, interval_s=1000)


async def shown(pilot: Pilot[None]) -> None:
    app = pilot.app
    assert isinstance(app, TopApp)
    while app.panel.view is None:
        await pilot.pause(0.01)
    await pilot.pause()


def test_gpu_and_engine(snap_compare: SnapCompare) -> None:
    app = top(Overview(sample=a_sample(a_gpu()), engines=(an_engine(),)))

    assert snap_compare(app, terminal_size=SIZE_CELLS, run_before=shown)


def test_two_gpus_one_lost_and_the_help(snap_compare: SnapCompare) -> None:
    async def with_help(pilot: Pilot[None]) -> None:
        await shown(pilot)
        await pilot.press("question_mark")

    app = top(Overview(sample=a_sample(a_gpu(), a_gpu(index=1, lost=True))))

    assert snap_compare(app, terminal_size=SIZE_CELLS, run_before=with_help)

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from edgeapp.protocol import Done, Failed, LoadPhase, Memory, Progress
from edgeapp.tui import wording
from edgeapp.tui.wording import Figures, State
from tests.scripted_engine import done

FULL = Figures(decode_tps=12.34, n_ctx=4096, n_ctx_used=1203, rss_bytes=512 * 2**20)


@pytest.mark.parametrize("phase", [*get_args(LoadPhase), "prefill"])
def test_every_phase_has_words(phase: LoadPhase) -> None:
    assert wording.progress(Progress(phase=phase, fraction=0.5)).endswith(" 50 %")


@pytest.mark.parametrize(("fraction", "text"), [(-1, "0 %"), (0.999, "99 %"), (1.0, "100 %"), (7, "100 %")])
def test_a_percentage_is_never_rounded_up_or_out_of_range(fraction: float, text: str) -> None:
    assert wording.percent(fraction) == text


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (100, "enter send · quit               12.3 tok/s · context 1,203/4,096 (29 %) · memory 512 MiB"),
        (60, "enter send · quit      12.3 tok/s · ctx 29 % · 512 MiB"),
        (48, "enter send   12.3 tok/s · ctx 29 % · 512 MiB"),
        (34, "enter send  12.3 tok/s · ctx 29 %"),
        (24, "enter send    12.3 tok/s"),
        (14, "enter send"),
        (4, ""),
    ],
)
def test_the_status_line_drops_what_does_not_fit(width: int, line: str) -> None:
    shown = wording.status_line(["enter send", "quit"], FULL, width)
    assert len(shown) == width
    assert shown.split() == line.split()


@given(
    width=st.integers(0, 200),
    state=st.sampled_from(get_args(State)),
    n_ctx_used=st.integers(0, 10**7),
    decode_tps=st.floats(0, 1e6),
)
def test_the_status_line_is_exactly_as_wide_as_asked(
    width: int, state: State, n_ctx_used: int, decode_tps: float
) -> None:
    figures = Figures(decode_tps=decode_tps, n_ctx=10**6, n_ctx_used=n_ctx_used, gpu_total_bytes=2**33)
    assert cell_len(wording.status_line(wording.hints(state), figures, width)) == width


@given(fraction=st.floats(-1, 2), width=st.integers(-5, 100))
def test_a_bar_has_the_width_asked_for(fraction: float, width: int) -> None:
    filled, empty = wording.bar(fraction, width)
    assert len(filled) + len(empty) == max(width, 0)


def test_only_unusual_endings_are_mentioned() -> None:
    assert wording.ending(done(n_tokens=5)) == ""
    assert wording.ending(done(n_tokens=5, finish_reason="cancelled")) == "stopped"
    assert "5 tokens" in wording.ending(done(n_tokens=5, finish_reason="length"))
    assert wording.ending(Failed(code="engine", message="x")) == "incomplete"


def test_a_full_context_names_the_way_out() -> None:
    full = done(n_tokens=5, finish_reason="length")
    full = Done(finish_reason="length", usage=full.usage, timings=full.timings, n_ctx=4096, n_ctx_used=4096)
    assert "/new" in wording.ending(full)


def test_memory_without_a_gpu_shows_none() -> None:
    figures = wording.with_memory(Figures(), Memory(rss_bytes=2**30))
    assert "GPU" not in wording.status_line([], figures, 80)
    assert "memory 1.0 GiB" in wording.status_line([], figures, 80)


def test_a_thought_is_told_with_its_time_and_its_tokens() -> None:
    assert wording.thought(3.24, 120) == "thought for 3.2 s, 120 tokens"
    assert wording.thought(0.5, 1) == "thought for 0.5 s, 1 token"
    assert wording.thought(125.9, 4321) == "thought for 2 min 5 s, 4,321 tokens"


def test_the_share_of_right_drafts_is_shown_when_there_were_any() -> None:
    figures = Figures(decode_tps=50.0, draft_tokens=40, draft_accepted=33)
    assert "50.0 tok/s · drafts 82 %" in wording.status_line((), figures, 60)
    assert "drafts" not in wording.status_line((), Figures(decode_tps=50.0), 60)

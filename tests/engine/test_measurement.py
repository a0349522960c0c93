"""How given tokens are decoded in pieces, and that a cancel ends it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeapp.engine.measurement import _pieces
from edgeapp.protocol import Cancel, Collect, Collected, Evaluate, Evaluated, Failed, Load, Loaded, Progress
from tests.engine.test_worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@given(
    n_tokens=st.integers(1, 300),
    start=st.integers(0, 300),
    first=st.integers(0, 300),
    n_batch=st.integers(1, 64),
    n_outputs=st.integers(1, 64),
)
def test_pieces_cover_all_tokens_and_ask_for_just_the_wanted_logits(
    n_tokens: int, start: int, first: int, n_batch: int, n_outputs: int
) -> None:
    first = min(first, n_tokens)
    start = min(start, first)
    n_outputs = min(n_outputs, n_batch)
    position, n_rows = start, 0
    for end, n_logits in _pieces(start, first, n_tokens, n_batch=n_batch, n_outputs=n_outputs):
        assert position < end <= position + n_batch
        assert 0 <= n_logits <= n_outputs
        position, n_rows = end, n_rows + n_logits
    assert position == n_tokens
    assert n_rows == n_tokens - first


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    try:
        yield worker
    finally:
        worker.process.kill()
        with worker.process:
            pass


@pytest.mark.parametrize("collect", [False, True])
def test_a_cancel_ends_a_measurement_between_two_pieces(
    worker: Worker, demo_model: Path, tmp_path: Path, *, collect: bool
) -> None:
    rows = tmp_path / "rows"
    rows.touch()
    tokens = tuple(range(1000, 1000 + 1024))
    worker.send(Load(id=1, path=str(demo_model), n_ctx=1024, n_threads=1, n_ubatch=32, collect=collect))
    worker.until(Loaded)
    if collect:
        worker.send(Collect(id=2, tokens=tokens))
    else:
        worker.send(Evaluate(id=2, tokens=tokens, first_logits=1023, file=str(rows)))
    worker.until(Progress)
    worker.send(Cancel(id=3, target=2))
    ended = worker.until(Evaluated, Collected, Failed)
    assert isinstance(ended, Failed)
    assert "cancelled" in ended.message
    worker.send(Evaluate(id=4, tokens=tokens[:3], first_logits=2, file=str(rows)))
    assert worker.until(Evaluated, Failed) == Evaluated(id=4, n_rows=1, n_vocab=49152)


def test_a_file_that_cannot_be_written_is_an_error_and_not_the_end(
    worker: Worker, tiny_moe: Path, tmp_path: Path
) -> None:
    worker.send(Load(id=1, path=str(tiny_moe), n_ctx=256, n_threads=1))
    worker.until(Loaded)
    worker.send(Evaluate(id=2, tokens=(5,), first_logits=0, file=str(tmp_path / "missing")))
    failed = worker.until(Evaluated, Failed)
    assert isinstance(failed, Failed)
    assert "cannot be written" in failed.message
    assert worker.process.poll() is None

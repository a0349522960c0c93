from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgeapp.engine.checkpoints import Checkpoints

_lengths = st.lists(st.integers(min_value=1, max_value=1000), min_size=1, max_size=30)


@given(_lengths, st.integers(min_value=0, max_value=1000))
def test_the_best_is_the_longest_that_is_not_too_long(lengths: list[int], n_keep: int) -> None:
    points = Checkpoints()
    for n_tokens in lengths:
        points.add(n_tokens, bytes([n_tokens % 256]))
    fitting = [n for n in points.lengths if n <= n_keep]
    found = points.best(n_keep)
    assert (found[0] if found else None) == (max(fitting) if fitting else None)
    if found:
        assert found[1] == bytes([found[0] % 256])


@given(_lengths, st.integers(min_value=1, max_value=5), st.integers(min_value=10, max_value=60))
def test_neither_count_nor_bytes_are_exceeded_and_the_newest_stays(
    lengths: list[int], max_count: int, max_bytes: int
) -> None:
    points = Checkpoints(max_count=max_count, max_bytes=max_bytes)
    for n_tokens in lengths:
        assert points.add(n_tokens, bytes(10))
        assert points.lengths[-1] == n_tokens
        assert len(points.lengths) <= max_count
        assert points.n_bytes <= max_bytes


def test_the_one_that_follows_another_most_closely_is_given_up_first() -> None:
    points = Checkpoints(max_count=3)
    for n_tokens in (100, 400, 410, 900):
        points.add(n_tokens, b"state")
    assert points.lengths == (100, 400, 900)


def test_a_text_that_goes_on_differently_loses_what_lay_behind() -> None:
    points = Checkpoints()
    for n_tokens in (10, 20, 30):
        points.add(n_tokens, b"old")
    points.truncate(20)
    assert points.lengths == (10, 20)
    points.add(15, b"new")
    assert points.lengths == (10, 15)
    assert points.best(1000) == (15, b"new")


def test_a_state_of_the_same_length_is_replaced() -> None:
    points = Checkpoints()
    points.add(10, b"old")
    points.add(10, b"new")
    assert points.best(10) == (10, b"new")
    assert points.n_bytes == 3


def test_a_state_that_is_too_large_is_not_kept_but_what_lay_behind_it_goes() -> None:
    points = Checkpoints(max_bytes=10)
    points.add(10, bytes(5))
    points.add(30, bytes(5))
    assert not points.add(20, bytes(11))
    assert points.lengths == (10,)


def test_a_cleared_sequence_has_no_checkpoints() -> None:
    points = Checkpoints()
    points.add(10, b"state")
    points.clear()
    assert points.best(10) is None

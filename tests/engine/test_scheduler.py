"""Every step of the scheduler keeps its limits, and nobody waits for ever."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from edgeapp.engine.scheduler import PATIENCE_STEPS, Share, Work, share_out

WORK = st.one_of(
    st.builds(
        Work,
        slot=st.just(0),
        n_decode=st.integers(1, 9),
        rank=st.integers(0, 5),
        n_skipped=st.integers(0, 20),
    ),
    st.builds(
        Work,
        slot=st.just(0),
        n_prefill=st.integers(1, 900),
        rank=st.integers(0, 5),
        n_skipped=st.integers(0, 20),
    ),
)
WORKS = st.lists(WORK, max_size=20).map(lambda items: [replace(item, slot=n) for n, item in enumerate(items)])


@given(work=WORKS, n_batch=st.integers(1, 600), n_rows=st.integers(1, 40), n_prefill=st.integers(1, 600))
def test_no_step_exceeds_its_limits(work: list[Work], n_batch: int, n_rows: int, n_prefill: int) -> None:
    shares = share_out(work, n_batch=n_batch, n_rows=n_rows, n_prefill=n_prefill)
    by_slot = {item.slot: item for item in work}
    assert sum(share.n_tokens for share in shares) <= n_batch
    assert sum(share.n_rows for share in shares) <= n_rows
    assert len({share.slot for share in shares}) == len(shares)
    for share in shares:
        item = by_slot[share.slot]
        assert 0 < share.n_tokens <= max(item.n_decode, item.n_prefill)
        ends = bool(item.n_decode) or share.n_tokens == item.n_prefill
        assert share.n_rows == (share.n_tokens if item.n_decode else int(ends))
    assert bool(shares) == bool(work)


@given(work=WORKS, n_prefill=st.integers(1, 600))
def test_every_answer_gets_its_next_token_when_there_is_room(work: list[Work], n_prefill: int) -> None:
    shares = share_out(work, n_batch=100, n_rows=100, n_prefill=n_prefill)
    decoding = {item.slot for item in work if item.n_decode}
    assert decoding <= {share.slot for share in shares}


@given(work=WORKS, n_batch=st.integers(1, 64), n_rows=st.integers(1, 8), n_prefill=st.integers(1, 64))
def test_nobody_waits_for_ever(work: list[Work], n_batch: int, n_rows: int, n_prefill: int) -> None:
    waiting = {item.slot: 0 for item in work}
    for _ in range(4 * (PATIENCE_STEPS + len(work) + 20)):
        now = [replace(item, n_skipped=waiting[item.slot]) for item in work]
        served = {share.slot for share in share_out(now, n_batch=n_batch, n_rows=n_rows, n_prefill=n_prefill)}
        waiting = {slot: 0 if slot in served else n + 1 for slot, n in waiting.items()}
        assert all(n <= 20 + PATIENCE_STEPS + 2 * len(work) for n in waiting.values())


def test_a_long_prompt_gets_only_its_slice_while_others_answer() -> None:
    work = [Work(slot=0, n_decode=1), Work(slot=1, n_prefill=5000)]
    shares = share_out(work, n_batch=512, n_rows=8, n_prefill=40)
    assert sorted(shares, key=lambda share: share.slot) == [
        Share(slot=0, n_tokens=1, n_rows=1),
        Share(slot=1, n_tokens=40, n_rows=0),
    ]


def test_a_prompt_alone_gets_the_whole_batch() -> None:
    assert share_out([Work(slot=3, n_prefill=5000)], n_batch=512, n_rows=8, n_prefill=40) == (
        Share(slot=3, n_tokens=512, n_rows=0),
    )


def test_prompts_are_read_in_the_order_of_their_rank() -> None:
    work = [Work(slot=0, n_prefill=400, rank=2), Work(slot=1, n_prefill=300, rank=1)]
    assert share_out(work, n_batch=512, n_rows=8, n_prefill=40) == (
        Share(slot=1, n_tokens=300, n_rows=1),
        Share(slot=0, n_tokens=212, n_rows=0),
    )


def test_drafts_get_what_prompts_leave() -> None:
    work = [Work(slot=0, n_decode=9), Work(slot=1, n_prefill=60)]
    shares = share_out(work, n_batch=64, n_rows=8, n_prefill=60)
    assert sum(share.n_tokens for share in shares) == 64
    assert Share(slot=1, n_tokens=60, n_rows=1) in shares

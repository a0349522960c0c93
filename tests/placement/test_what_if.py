from __future__ import annotations

from edgeapp.placement.what_if import what_if
from edgeapp.placement.wishes import Wishes
from tests.placement.made import GIB, NEED, SHAPE, made_machine, made_shape


def test_every_card_context_and_type_has_a_row() -> None:
    rows = what_if(SHAPE, made_machine(10), NEED, Wishes(n_ctx=32768), card_gibs=(8, 24))
    assert [(row.vram_bytes // GIB, row.n_ctx, row.kv_type) for row in rows] == [
        (gib, n_ctx, kv_type)
        for gib in (8, 24)
        for n_ctx in (4096, 16384, 32768)
        for kv_type in ("f16", "q8_0")
    ]
    small, large = (row.plan for row in rows if (row.n_ctx, row.kv_type) == (16384, "f16"))
    assert small is not None
    assert large is not None
    assert large.predicted.request_s < small.predicted.request_s
    assert (small.n_ctx, small.kv_type) == (16384, "f16")


def test_the_machines_own_limits_do_not_count() -> None:
    (row,) = what_if(
        SHAPE,
        made_machine(2),
        NEED,
        Wishes(max_vram_bytes=GIB),
        card_gibs=(24,),
        n_ctxs=(4096,),
        kv_types=("f16",),
    )
    assert row.plan is not None
    assert row.plan.vram.total > 15 * GIB


def test_what_cannot_be_is_a_row_without_a_plan() -> None:
    wishes = Wishes(cpu_expert_layers=0)
    rows = what_if(SHAPE, made_machine(24), NEED, wishes, n_ctxs=(4096,), kv_types=("f16",))
    assert [row.plan is None for row in rows] == [True, True, True, False]


def test_types_that_do_not_divide_the_heads_and_contexts_beyond_the_trained_have_no_rows() -> None:
    odd = made_shape(head_dim=80, n_ctx_train=2048)
    rows = what_if(odd, made_machine(8), NEED, Wishes(), card_gibs=(8,))
    assert [(row.n_ctx, row.kv_type) for row in rows] == [(2048, "f16")]


def test_there_is_nothing_to_ask_without_a_gpu() -> None:
    assert what_if(SHAPE, made_machine(), NEED, Wishes()) == ()

"""What is given up when memory ran out, in which order."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from edgeapp.protocol import Load, TensorOverride
from edgeapp.runtime.tighter import MAX_TIGHTER, Ladder, describe, usual_fallbacks

FULL = Load(
    path="m.gguf", n_ctx=4096, n_threads=2, n_ubatch=512, n_parallel=4, n_kv=16384, cache_ram_bytes=1 << 30
)


def walked(ladder: Ladder) -> list[Load]:
    loads = [ladder.load]
    while ladder.step_down():
        loads.append(ladder.load)
    return loads


def test_without_a_plan_the_micro_batch_goes_first_then_what_is_done_at_the_same_time() -> None:
    assert [describe(FULL, load) for load in usual_fallbacks(FULL)] == [
        "n_ubatch 256",
        "n_ubatch 128",
        "n_ubatch 128, n_parallel 1, n_kv 4096, cache_ram_bytes 0",
    ]


def test_what_is_small_already_is_not_given_up_again() -> None:
    small = Load(path="m.gguf", n_ctx=4096, n_threads=2, n_ubatch=200)
    assert [describe(small, load) for load in usual_fallbacks(small)] == ["n_ubatch 128"]
    assert usual_fallbacks(replace(small, n_ubatch=64)) == ()


def test_a_plan_gives_its_own_steps_and_at_most_three_are_taken() -> None:
    steps = [replace(FULL, n_ubatch=n_ubatch) for n_ubatch in (448, 320, 192, 64)]
    assert walked(Ladder(FULL, steps)) == [FULL, *steps[:MAX_TIGHTER]]


def test_a_ladder_tells_what_was_given_up_and_what_was_tried() -> None:
    ladder = Ladder(FULL)
    assert (ladder.given_up, len(ladder.tried)) == ("", 0)
    ladder.step_down()
    ladder.step_down()
    assert ladder.given_up == "n_ubatch 128"
    assert ladder.tried == ("n_ubatch 256", "n_ubatch 128")
    ladder.start_again()
    assert ladder.load == FULL


def test_places_are_described_in_words() -> None:
    on_gpu = replace(FULL, device="CUDA0", n_gpu_layers=99)
    override = TensorOverride(pattern=r"blk\.3\..*exps", buffer="CPU")
    assert describe(on_gpu, replace(on_gpu, tensor_overrides=(override,), n_ubatch=256)) == (
        "n_ubatch 256, another part of the model in host memory"
    )
    assert describe(on_gpu, replace(on_gpu, device="", n_gpu_layers=0)) == "the CPU alone"


loads = st.builds(
    Load,
    path=st.just("m.gguf"),
    n_threads=st.just(2),
    n_ctx=st.integers(1, 1 << 20),
    n_ubatch=st.integers(1, 8192),
    n_parallel=st.integers(1, 64),
    n_kv=st.integers(0, 1 << 22),
    cache_ram_bytes=st.integers(0, 1 << 40),
)


@given(loads)
def test_every_usual_step_needs_less_than_the_one_before_and_leaves_the_context_alone(load: Load) -> None:
    steps = walked(Ladder(load))
    assert len(steps) <= 1 + MAX_TIGHTER
    for before, tight in itertools.pairwise(steps):
        assert tight != before
        assert tight.n_ctx == load.n_ctx
        old = asdict(before)
        assert all(value == old[name] or value < old[name] for name, value in asdict(tight).items())

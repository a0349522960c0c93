"""What is given up when memory ran out, in which order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict

from edgeapp.protocol import Load
from edgeapp.runtime.tighter import describe, tighter

FULL = Load(
    path="m.gguf", n_ctx=4096, n_threads=2, n_ubatch=512, n_parallel=4, n_kv=16384, cache_ram_bytes=1 << 30
)


def differences(load: Load) -> list[str]:
    found: list[str] = []
    for n in range(1, 9):
        tight = tighter(load, n)
        if tight is None:
            return found
        found.append(describe(load, tight))
    raise AssertionError("it never ends")


def test_the_micro_batch_goes_first_then_what_is_done_at_the_same_time() -> None:
    assert differences(FULL) == [
        "n_ubatch 256",
        "n_ubatch 128",
        "n_ubatch 128, n_parallel 1, n_kv 4096, cache_ram_bytes 0",
    ]


def test_what_is_small_already_is_not_given_up_again() -> None:
    small = Load(path="m.gguf", n_ctx=4096, n_threads=2, n_ubatch=200)
    assert differences(small) == ["n_ubatch 128"]
    assert differences(Load(path="m.gguf", n_ctx=4096, n_threads=2, n_ubatch=64)) == []


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
def test_every_step_needs_less_than_the_one_before_and_leaves_the_context_alone(load: Load) -> None:
    before = load
    for n in range(1, 9):
        tight = tighter(load, n)
        if tight is None:
            assert 1 <= n <= 4
            return
        assert tight != before
        assert tight.n_ctx == load.n_ctx
        for name, value in asdict(tight).items():
            old = asdict(before)[name]
            assert value == old or value < old
        before = tight
    raise AssertionError("it never ends")

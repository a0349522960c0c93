from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeapp.placement.compute_need import ComputeNeed, ComputePoint
from tests.placement.made import MIB, SHAPE

POINTS = st.lists(
    st.builds(
        ComputePoint,
        n_ctx=st.integers(256, 70000),
        n_ubatch=st.integers(1, 8192),
        experts_on_cpu=st.booleans(),
        device_bytes=st.integers(0, 1 << 33),
        host_bytes=st.integers(0, 1 << 33),
    ),
    min_size=1,
    max_size=6,
)


def point(n_ctx: int, n_ubatch: int, device_bytes: int, *, experts_on_cpu: bool = False) -> ComputePoint:
    return ComputePoint(
        n_ctx=n_ctx,
        n_ubatch=n_ubatch,
        experts_on_cpu=experts_on_cpu,
        device_bytes=device_bytes,
        host_bytes=device_bytes // 2,
    )


def on_device(need: ComputeNeed, n_ctx: int, n_ubatch: int, *, experts_on_cpu: bool = False) -> int:
    return need.device_bytes(n_ctx=n_ctx, n_ubatch=n_ubatch, experts_on_cpu=experts_on_cpu)


def bilinear(n_ctx: int, n_ubatch: int) -> int:
    return 7000 + 30 * n_ubatch + n_ubatch * n_ctx // 256


def test_between_probes_the_need_is_linear_in_both() -> None:
    need = ComputeNeed.from_probes(
        [point(n_ctx, u, bilinear(n_ctx, u)) for n_ctx in (4096, 32768) for u in (512, 8192)]
    )
    for n_ctx, n_ubatch in ((4096, 512), (32768, 8192), (8192, 512), (32768, 2048), (16384, 4096)):
        assert on_device(need, n_ctx, n_ubatch) == bilinear(n_ctx, n_ubatch)
    host_bytes = need.host_bytes(n_ctx=4096, n_ubatch=512, experts_on_cpu=False)
    assert host_bytes == bilinear(4096, 512) // 2


def test_beyond_the_probes_it_grows_at_least_as_the_truth_does() -> None:
    need = ComputeNeed.from_probes([point(4096, u, bilinear(4096, u)) for u in (512, 1024)])
    for n_ctx, n_ubatch in ((4096, 8192), (32768, 512), (65536, 4096)):
        assert on_device(need, n_ctx, n_ubatch) >= bilinear(n_ctx, n_ubatch)
    assert on_device(need, 256, 64) == bilinear(4096, 512), "smaller than any probe"


def test_experts_in_host_memory_have_probes_of_their_own() -> None:
    both = [point(4096, 512, 100), point(4096, 512, 300, experts_on_cpu=True)]
    need = ComputeNeed.from_probes(both)
    assert on_device(need, 4096, 512) == 100
    assert on_device(need, 4096, 512, experts_on_cpu=True) == 300
    alone = ComputeNeed.from_probes(both[:1])
    assert on_device(alone, 4096, 512, experts_on_cpu=True) == 100


@settings(deadline=None, max_examples=60)
@given(points=POINTS, n_ctx=st.integers(256, 1 << 17), n_ubatch=st.integers(1, 8192), grown=st.integers(1, 9))
def test_the_need_never_falls_and_is_never_below_a_smaller_probe(
    points: list[ComputePoint], n_ctx: int, n_ubatch: int, grown: int
) -> None:
    need = ComputeNeed.from_probes(points)
    here = on_device(need, n_ctx, n_ubatch)
    assert on_device(need, n_ctx * grown, n_ubatch) >= here
    assert on_device(need, n_ctx, n_ubatch * grown) >= here
    within = [one for one in points if one.n_ctx <= n_ctx and one.n_ubatch <= n_ubatch]
    assert here >= max((one.device_bytes for one in within if not one.experts_on_cpu), default=0)


@pytest.mark.parametrize("n_ubatch", [512, 2048])
def test_the_assumed_need_is_above_what_llama_cpp_takes_for_such_a_model(n_ubatch: int) -> None:
    """Qwen3-30B-A3B, everything on one device: 92.55 MiB at 4096 and 512, 416.53 at 16384 and 2048."""
    measured_mib = {512: 92.55, 2048: 416.53}[n_ubatch]
    need = ComputeNeed.assumed(SHAPE)
    assert not need.is_probed
    assumed_mib = on_device(need, 8 * n_ubatch, n_ubatch) / MIB
    assert measured_mib < assumed_mib < 3.5 * measured_mib

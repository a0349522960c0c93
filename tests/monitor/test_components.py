from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgeapp.hardware import GpuProcess, GpuSample, ProgramMemory
from edgeapp.monitor.components import device_parts, ram_parts, uses_on
from edgeapp.monitor.samples import DeviceSample, RamSample, merge_devices
from edgeapp.monitor.status import EngineStatus
from edgeapp.protocol import BufferUse, Device
from tests.monitor.memory_samples import CARD, GIB, a_gpu, a_sample, some_ram

_BYTES = st.integers(0, 100 * GIB)


def buffers(device: str, *, weights_bytes: int = 3 * GIB) -> BufferUse:
    return BufferUse(device=device, weights_bytes=weights_bytes, kv_bytes=GIB // 2, compute_bytes=GIB // 4)


def an_engine(*uses: BufferUse, devices: tuple[Device, ...] = ()) -> EngineStatus:
    return EngineStatus(
        pid=1, identity="x", front_end="chat", model="m", started_s=0.0, buffers=uses, devices=devices
    )


def ggml(name: str, description: str) -> Device:
    return Device(name=name, description=description, kind="gpu", free_bytes=GIB, total_bytes=8 * GIB)


def test_a_gpu_is_made_of_our_buffers_the_runtime_others_by_name_and_free_memory() -> None:
    (device,) = merge_devices([a_gpu()], ())

    parts = device_parts(device, [buffers("CUDA0")])

    assert [(part.kind, part.label, part.size_bytes / GIB) for part in parts] == [
        ("weights", "", 3.0),
        ("kv", "", 0.5),
        ("compute", "", 0.25),
        ("runtime", "", 0.25),
        ("other", "firefox", 0.5),
        ("system", "", 0.5),
        ("free", "", 3.0),
    ]


def test_a_lost_gpu_has_no_parts_but_its_size() -> None:
    (device,) = merge_devices([a_gpu(lost=True)], ())

    assert [(part.kind, part.size_bytes) for part in device_parts(device, [])] == [("lost", 8 * GIB)]


def test_mapped_weights_are_memory_that_can_be_dropped() -> None:
    parts = ram_parts(some_ram(available_bytes=20 * GIB, ours_bytes=2 * GIB, mapped_bytes=6 * GIB))

    sizes = {(part.kind, part.label): part.size_bytes / GIB for part in parts}
    assert sizes["engine", ""] == 2
    assert sizes["other", "chrome"] == 4
    assert sizes["mapped", ""] == 6
    assert sizes["free", ""] == 14


@given(
    total_bytes=_BYTES,
    free_bytes=_BYTES,
    ours_bytes=st.none() | _BYTES,
    other_bytes=st.lists(st.none() | _BYTES, max_size=4),
    weights_bytes=_BYTES,
    lost=st.booleans(),
)
def test_the_parts_of_a_gpu_always_add_up_to_it(
    *,
    total_bytes: int,
    free_bytes: int,
    ours_bytes: int | None,
    other_bytes: list[int | None],
    weights_bytes: int,
    lost: bool,
) -> None:
    gpu = GpuSample(
        index=0,
        name=CARD,
        total_bytes=total_bytes,
        free_bytes=free_bytes,
        ours=(GpuProcess(pid=1, name="we", used_bytes=ours_bytes),),
        others=tuple(GpuProcess(pid=2, name="x", used_bytes=held) for held in other_bytes),
        lost=lost,
    )
    device = DeviceSample(
        name="GPU 0", description=CARD, total_bytes=total_bytes, free_bytes=free_bytes, gpu=gpu
    )

    parts = device_parts(device, [buffers("CUDA0", weights_bytes=weights_bytes)])

    assert sum(part.size_bytes for part in parts) == total_bytes
    assert all(part.size_bytes > 0 for part in parts) or total_bytes == 0


@given(total=_BYTES, available=_BYTES, ours=_BYTES, mapped=_BYTES, others=st.lists(_BYTES, max_size=4))
def test_the_parts_of_ram_always_add_up_to_it(
    *, total: int, available: int, ours: int, mapped: int, others: list[int]
) -> None:
    ram = RamSample(
        total_bytes=total,
        available_bytes=available,
        ours_bytes=ours,
        mapped_bytes=mapped,
        total_swap_bytes=0,
        free_swap_bytes=0,
        others=tuple(ProgramMemory(name="x", used_bytes=held) for held in others),
    )

    parts = ram_parts(ram)

    assert sum(part.size_bytes for part in parts) == total
    assert all(part.size_bytes >= 0 for part in parts)


def test_buffers_belong_to_the_card_of_that_name_whatever_cuda_numbers_it() -> None:
    sample = a_sample(a_gpu(index=0, name="Slow"), a_gpu(index=1, name="Fast"))
    engine = an_engine(buffers("CUDA0"), devices=(ggml("CUDA0", "Fast"), ggml("CUDA1", "Slow")))

    slow, fast = (uses_on(device, sample, [engine]) for device in sample.devices)

    assert slow == ()
    assert [use.device for use in fast] == ["CUDA0"]


def test_two_cards_of_one_name_are_told_apart_by_their_order() -> None:
    sample = a_sample(a_gpu(index=0), a_gpu(index=1))
    engine = an_engine(buffers("CUDA1"), devices=(ggml("CUDA0", CARD), ggml("CUDA1", CARD)))

    first, second = (uses_on(device, sample, [engine]) for device in sample.devices)

    assert first == ()
    assert len(second) == 1


def test_an_engine_that_reports_no_devices_is_matched_by_number() -> None:
    sample = a_sample(a_gpu())

    assert len(uses_on(sample.devices[0], sample, [an_engine(buffers("CUDA0"))])) == 1


def test_host_buffers_are_on_no_gpu() -> None:
    sample = a_sample(a_gpu())

    assert uses_on(sample.devices[0], sample, [an_engine(buffers("CPU"))]) == ()

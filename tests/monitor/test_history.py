from __future__ import annotations

from edgeapp.monitor.history import History
from tests.monitor.memory_samples import GIB, a_gpu, a_sample, some_ram


def test_use_is_a_share_of_the_device_and_the_oldest_comes_first() -> None:
    history = History()
    history.append(a_sample(a_gpu(total_bytes=8 * GIB, free_bytes=6 * GIB)))
    history.append(a_sample(a_gpu(total_bytes=8 * GIB, free_bytes=2 * GIB)))

    assert history.device_use("GPU 0") == (0.25, 0.75)


def test_only_the_last_samples_are_kept() -> None:
    history = History(3)
    for n in range(10):
        history.append(a_sample(ram=some_ram(available_bytes=(32 - n) * GIB)))

    assert history.ram_use() == (7 / 32, 8 / 32, 9 / 32)


def test_a_device_that_was_lost_or_not_there_used_nothing() -> None:
    history = History()
    history.append(a_sample())
    history.append(a_sample(a_gpu(lost=True)))

    assert history.device_use("GPU 0") == (0.0, 0.0)

"""Files that the reader accepts, with the numbers that were given, or no file at all."""

from __future__ import annotations

import fcntl
import json
import resource
import shutil
import signal
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest

from edgeapp.errors import ConversionFailed, NotEnoughDisk
from edgeapp_converters.safetensors_writer import Dtype, NewTensor, write_safetensors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

_NUMPY: dict[str, str] = {"F16": "<f2", "F32": "<f4", "BF16": "<u2"}


def tensor(values: NDArray[np.float32], *names: str, dtype: Dtype = "F32") -> NewTensor:
    """Give the rows one at a time."""

    def rows() -> Iterator[NDArray[np.float32]]:
        matrix = values.reshape(-1, values.shape[-1])
        yield from (matrix[index : index + 1] for index in range(len(matrix)))

    return NewTensor(names=names, dtype=dtype, shape=values.shape, rows=rows)


def read(path: Path) -> dict[str, NDArray[np.generic]]:
    """Read the file by the format's description, independently of our own reader."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    assert header.pop("__metadata__") == {"format": "pt"}
    assert length % 8 == 0
    assert max(entry["data_offsets"][1] for entry in header.values()) == len(raw) - 8 - length
    found = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        found[name] = np.frombuffer(raw[begin:end], _NUMPY[entry["dtype"]]).reshape(entry["shape"])
    return found


def ignore(_done: int, _total: int) -> None:
    pass


def test_numbers_come_back_in_every_dtype(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((5, 7), dtype=np.float32)
    path = tmp_path / "model.safetensors"
    kinds: tuple[Dtype, ...] = ("F32", "F16", "BF16")
    write_safetensors(path, [tensor(values, kind, dtype=kind) for kind in kinds], progress=ignore)
    found = read(path)
    assert (found["F32"] == values).all()
    assert (found["F16"] == values.astype(np.float16)).all()
    widened = (found["BF16"].astype(np.uint32) << 16).view(np.float32)
    assert np.abs(widened - values).max() <= np.abs(values).max() / 256


def test_a_tensor_is_stored_under_each_of_its_names(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    path = tmp_path / "model.safetensors"
    tensors = [tensor(values, "a", "b", "c"), tensor(-values[0], "last")]
    write_safetensors(path, tensors, progress=ignore)
    found = read(path)
    assert [found[name].tolist() for name in "abc"] == [values.tolist()] * 3
    assert found["last"].tolist() == [-0.0, -1, -2, -3]


def test_progress_counts_every_copy(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    tensors = [tensor(np.ones((2, 4), np.float32), "a", "b"), tensor(np.ones(4, np.float32), "c")]
    write_safetensors(tmp_path / "m", tensors, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(64, 80), (80, 80)]


@pytest.mark.parametrize(
    ("value", "dtype"), [(np.nan, "F32"), (np.inf, "F16"), (1e6, "F16"), (-np.inf, "BF16")]
)
def test_a_number_that_cannot_be_stored_leaves_the_old_file(
    tmp_path: Path, value: float, dtype: Dtype
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")
    values = np.array([[1, 2], [3, value]], dtype=np.float32)
    with pytest.raises(ConversionFailed, match="cannot store"):
        write_safetensors(path, [tensor(values, "a", dtype=dtype)], progress=ignore)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]
    assert path.read_bytes() == b"old"


def test_rows_that_do_not_fill_the_tensor_are_a_bug_that_shows(tmp_path: Path) -> None:
    short = NewTensor(names=("a",), dtype="F32", shape=(3, 4), rows=lambda: [np.ones((2, 4), np.float32)])
    with pytest.raises(ValueError, match="32 of 48 bytes"):
        write_safetensors(tmp_path / "m", [short], progress=ignore)
    assert not list(tmp_path.iterdir())


class _DiskUsage(NamedTuple):
    total: int
    used: int
    free: int


def test_too_little_disk_is_told_with_numbers_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: _DiskUsage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(NotEnoughDisk, match=r"takes .* MB, 1 MB are free") as caught:
        write_safetensors(tmp_path / "m", [tensor(np.ones((2, 4), np.float32), "a")], progress=ignore)
    assert caught.value.free_bytes == 10**6
    assert not list(tmp_path.iterdir())


def test_a_disk_that_refuses_is_an_error_with_its_reason(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(ConversionFailed, match="File too large"):
            write_safetensors(tmp_path / "m", [tensor(np.ones((64, 64), np.float32), "a")], progress=ignore)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())


def test_a_file_that_another_process_writes_is_left_alone(tmp_path: Path) -> None:
    part = tmp_path / "m.part"
    with part.open("wb") as other:
        other.write(b"half")
        other.flush()
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ConversionFailed, match="another process"):
            write_safetensors(tmp_path / "m", [tensor(np.ones(4, np.float32), "a")], progress=ignore)
    assert part.read_bytes() == b"half"


def test_a_symbolic_link_in_the_parts_place_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "m.part").symlink_to(victim)
    with pytest.raises(ConversionFailed):
        write_safetensors(tmp_path / "m", [tensor(np.ones(4, np.float32), "a")], progress=ignore)
    assert victim.read_bytes() == b"precious"

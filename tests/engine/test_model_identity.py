from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from edgeapp.engine import model_identity
from edgeapp.errors import ModelNotFound
from tests.tiny_moe import write_tiny_moe

if TYPE_CHECKING:
    from pathlib import Path


def key(path: Path, *, kv_type: str = "f16", n_expert_used: int = 0) -> str:
    return model_identity.model_key(path, kv_type=kv_type, n_expert_used=n_expert_used)


def same_time(path: Path, other: Path) -> Path:
    time_ns = other.stat().st_mtime_ns
    os.utime(path, ns=(time_ns, time_ns))
    return path


@pytest.fixture
def copy(tmp_path: Path, tiny_moe: Path) -> Path:
    shutil.copy2(tiny_moe, tmp_path / "copy.gguf")
    return tmp_path / "copy.gguf"


def test_a_copy_with_its_time_is_the_same_model(copy: Path, tiny_moe: Path) -> None:
    assert key(copy) == key(tiny_moe)


def test_other_weights_of_the_same_size_and_time_are_another_model(tmp_path: Path, tiny_moe: Path) -> None:
    other = write_tiny_moe(tmp_path / "other.gguf", seed=1)
    assert other.stat().st_size == tiny_moe.stat().st_size
    assert key(same_time(other, tiny_moe)) != key(tiny_moe)


def test_an_edited_header_is_another_model(copy: Path, tiny_moe: Path) -> None:
    content = copy.read_bytes()
    copy.write_bytes(content.replace(b"edgeapp tests", b"edgeapp testz", 1))
    assert key(same_time(copy, tiny_moe)) != key(tiny_moe)


def test_a_change_at_the_very_end_is_another_model(copy: Path, tiny_moe: Path) -> None:
    content = bytearray(copy.read_bytes())
    content[-1] ^= 1
    copy.write_bytes(content)
    assert key(same_time(copy, tiny_moe)) != key(tiny_moe)


def test_an_edit_in_place_shows_in_the_time(copy: Path, tiny_moe: Path) -> None:
    os.utime(copy, ns=(0, 0))
    assert key(copy) != key(tiny_moe)


def test_kv_type_and_number_of_experts_are_part_of_it(tiny_moe: Path) -> None:
    keys = {
        key(tiny_moe),
        key(tiny_moe, kv_type="f32"),
        key(tiny_moe, n_expert_used=1),
        key(tiny_moe, n_expert_used=2),
    }
    assert len(keys) == 4


def test_every_file_of_a_split_model_counts(tmp_path: Path) -> None:
    first = write_tiny_moe(tmp_path / "split.gguf", split_max_tensors=10)
    before = key(first)
    last = max(tmp_path.glob("split-*.gguf"))
    assert last != first
    os.utime(last, ns=(0, 0))
    assert key(first) != before


def test_a_missing_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        key(tmp_path / "none.gguf")

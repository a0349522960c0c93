from __future__ import annotations

import multiprocessing
import os
import shutil
import stat
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeapp.engine import bindings
from edgeapp.engine.model_identity import model_key
from edgeapp.engine.prefix_disk import PrefixDisk
from edgeapp.engine.prefix_store import SavedSequence
from tests.engine.sequences import some_tokens, two_sequences

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MODEL = "a-model llama-cpp-python-1 f16 experts-0"


def saved(
    tokens: Sequence[int] = (1, 2, 3), *, data: bytes = b"state" * 20, key: str = "", n_least: int = 0
) -> SavedSequence:
    return SavedSequence(
        key=key, tokens=tuple(tokens), rendered="text é".encode(), data=data, n_least=n_least
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "prefixes"


@pytest.fixture
def disk(folder: Path) -> PrefixDisk:
    return PrefixDisk(folder, MODEL, capacity_bytes=10**6)


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def n_tokens_on_disk(folder: Path) -> list[int]:
    return sorted(int(path.name.partition("-")[0]) for path in folder.iterdir())


def use_at(path: Path, time_s: float) -> None:
    os.utime(path, (time_s, time_s))


# Round trip ----------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 2**31 - 1)), st.binary(), st.binary(), st.text(), st.integers(0, 9))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
def test_what_was_saved_is_loaded(
    tmp_path: Path, tokens: list[int], rendered: bytes, data: bytes, key: str, n_least: int
) -> None:
    key = key.encode("utf-8", "replace").decode()
    disk = PrefixDisk(tmp_path / "any", MODEL, capacity_bytes=10**9)
    entry = SavedSequence(key=key, tokens=tuple(tokens), rendered=rendered, data=data, n_least=n_least)
    assert disk.save(entry)
    loaded = disk.load(key, tokens)
    assert loaded is not None
    assert (loaded.key, loaded.tokens, loaded.n_least) == (key, tuple(tokens), n_least)
    disk.discard(entry)
    if tokens:
        assert (loaded.rendered, loaded.data) == (rendered, data)


def test_a_saved_prefix_makes_a_new_process_answer_as_if_it_had_computed_it(
    tiny_moe: Path, folder: Path
) -> None:
    tokens = some_tokens(80)
    disk = PrefixDisk(folder, model_key(tiny_moe, kv_type="f16", n_expert_used=0))
    with two_sequences(tiny_moe) as model:
        cold = model.cold(tokens, count=16)
        model.decode(tokens[:60], n_past=0)
        assert disk.save(saved(tokens[:60], data=bytes(bindings.save_sequence(model.context, 0))))
    again = PrefixDisk(folder, model_key(tiny_moe, kv_type="f16", n_expert_used=0))
    with two_sequences(tiny_moe) as model:
        entry = again.longest("", tokens)
        assert entry is not None
        assert bindings.load_sequence(model.context, 1, entry.data)
        assert model.greedy(tokens[60:], n_past=60, count=16, sequence=1) == cold


def test_files_and_folder_are_the_user_s_alone_and_nothing_else_is_left(
    disk: PrefixDisk, folder: Path
) -> None:
    assert disk.save(saved())
    assert stat.S_IMODE(only_file(folder).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("model", "key", "tokens"),
    [
        ("another model", "", [1, 2, 3]),
        (MODEL, "adapter", [1, 2, 3]),
        (MODEL, "", [1, 2]),
        (MODEL, "", [1, 2, 4]),
    ],
)
def test_another_model_another_adapter_or_other_tokens_find_nothing(
    disk: PrefixDisk, folder: Path, model: str, key: str, tokens: list[int]
) -> None:
    disk.save(saved())
    assert PrefixDisk(folder, model).load(key, tokens) is None
    assert only_file(folder)


def test_the_longest_whole_beginning_is_found(disk: PrefixDisk, folder: Path) -> None:
    for tokens in ([1], [1, 2], [1, 2, 3, 4], [1, 9], [1, 2, 3, 9, 9]):
        disk.save(saved(tokens))
    disk.save(saved([1, 2, 3], key="adapter"))
    PrefixDisk(folder, "another model").save(saved([1, 2, 3]))
    found = [disk.longest("", tokens) for tokens in ([1, 2, 3], [1, 2, 3, 4, 5], [2], [])]
    assert [entry and entry.tokens for entry in found] == [(1, 2), (1, 2, 3, 4), None, None]


def test_a_folder_that_is_not_there_holds_nothing(disk: PrefixDisk) -> None:
    assert disk.load("", [1]) is None
    assert disk.longest("", [1]) is None


def test_a_state_that_was_refused_can_be_discarded(disk: PrefixDisk, folder: Path) -> None:
    disk.save(saved())
    disk.discard(saved())
    disk.discard(saved())
    assert not list(folder.iterdir())


# Damage --------------------------------------------------------------------------------------------------


def test_a_flipped_bit_anywhere_is_noticed_and_the_file_deleted(disk: PrefixDisk, folder: Path) -> None:
    disk.save(saved())
    path = only_file(folder)
    content = path.read_bytes()
    for index in range(len(content)):
        damaged = bytearray(content)
        damaged[index] ^= 1 << index % 8
        path.write_bytes(damaged)
        assert disk.load("", [1, 2, 3]) is None, index
        assert not path.exists(), index


def test_a_file_cut_anywhere_or_continued_is_noticed_and_deleted(disk: PrefixDisk, folder: Path) -> None:
    disk.save(saved())
    path = only_file(folder)
    content = path.read_bytes()
    for damaged in (*(content[:length] for length in range(len(content))), content + b"\0"):
        path.write_bytes(damaged)
        assert disk.load("", [1, 2, 3]) is None
        assert not path.exists()


def test_a_damaged_prefix_falls_back_to_a_shorter_one(disk: PrefixDisk, folder: Path) -> None:
    disk.save(saved([1]))
    disk.save(saved([1, 2]))
    longer = max(folder.iterdir(), key=lambda path: path.name)
    longer.write_bytes(longer.read_bytes()[:-1])
    found = disk.longest("", [1, 2, 3])
    assert found is not None
    assert found.tokens == (1,)


def test_a_file_under_another_sequence_s_name_is_not_taken_for_it(disk: PrefixDisk, folder: Path) -> None:
    disk.save(saved([1, 2, 3]))
    stolen = only_file(folder).read_bytes()
    disk.discard(saved([1, 2, 3]))
    disk.save(saved([7, 8, 9]))
    only_file(folder).write_bytes(stolen)
    assert disk.load("", [7, 8, 9]) is None
    assert not list(folder.iterdir())


def test_a_link_or_a_fifo_under_the_name_of_a_prefix_is_not_followed(
    disk: PrefixDisk, folder: Path, tmp_path: Path
) -> None:
    disk.save(saved())
    path = only_file(folder)
    elsewhere = path.rename(tmp_path / "elsewhere")
    path.symlink_to(elsewhere)
    assert disk.load("", [1, 2, 3]) is None
    path.unlink()
    os.mkfifo(path)
    assert disk.load("", [1, 2, 3]) is None
    assert elsewhere.exists()


# Room ----------------------------------------------------------------------------------------------------


class Usage(NamedTuple):
    free: int


def file_bytes(folder: Path) -> int:
    return only_file(folder).stat().st_size


def test_the_least_recently_used_is_deleted_for_a_new_one(folder: Path) -> None:
    PrefixDisk(folder, "another model").save(saved([1]))
    disk = PrefixDisk(folder, MODEL, capacity_bytes=3 * file_bytes(folder) + 200)
    for tokens in ([1, 2], [1, 2, 3]):
        disk.save(saved(tokens))
    for path in folder.iterdir():
        use_at(path, 1000 + len(path.name) + int(path.name[0]))
    assert disk.load("", [1, 2]) is not None
    assert disk.save(saved([1, 2, 3, 4]))
    assert n_tokens_on_disk(folder) == [2, 3, 4]
    assert disk.save(saved([1, 2, 3, 4, 5]))
    assert n_tokens_on_disk(folder) == [2, 4, 5]


def test_saving_again_counts_as_use_and_writes_nothing(disk: PrefixDisk, folder: Path) -> None:
    disk.save(saved())
    path = only_file(folder)
    use_at(path, 1000)
    inode = path.stat().st_ino
    assert disk.save(saved())
    assert path.stat().st_ino == inode
    assert path.stat().st_mtime > 1000


def test_a_prefix_larger_than_the_capacity_is_not_saved_and_nothing_is_deleted(folder: Path) -> None:
    disk = PrefixDisk(folder, MODEL, capacity_bytes=500)
    assert disk.save(saved([1]))
    assert not disk.save(saved([2], data=bytes(500)))
    assert n_tokens_on_disk(folder) == [1]


def test_the_default_capacity_is_a_twentieth_of_the_free_disk_and_2_gib_at_most(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = PrefixDisk(folder, MODEL)
    assert disk.save(saved([1]))
    size_bytes = file_bytes(folder)
    free = 20 * 2 * size_bytes
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(free))
    assert disk.save(saved([2]))
    assert disk.save(saved([3]))
    assert len(list(folder.iterdir())) == 2
    assert disk._capacity(0) == 2 * size_bytes
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(10**15))
    assert disk._capacity(0) == 2 << 30


def test_what_a_dead_process_left_is_removed_but_not_what_is_being_written(
    disk: PrefixDisk, folder: Path
) -> None:
    folder.mkdir()
    stale, fresh = folder / "stale.part", folder / "fresh.part"
    stale.touch()
    fresh.touch()
    use_at(stale, time.time() - 7200)
    disk.save(saved())
    assert fresh.exists()
    assert not stale.exists()


def test_other_files_in_the_folder_are_left_alone(folder: Path) -> None:
    folder.mkdir()
    note = folder / "1-note.kv"
    note.write_bytes(bytes(10_000))
    use_at(note, 1)
    assert PrefixDisk(folder, MODEL, capacity_bytes=500).save(saved())
    assert note.exists()


def test_a_folder_that_cannot_be_written_costs_the_cache_and_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    disk = PrefixDisk(tmp_path / "file" / "folder", MODEL)
    assert not disk.save(saved())
    assert disk.load("", [1, 2, 3]) is None
    assert disk.longest("", [1, 2, 3]) is None


def test_a_failed_write_leaves_no_part_behind(
    disk: PrefixDisk, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert not disk.save(saved())
    assert not list(folder.iterdir())


def _work(folder: Path, seed: int) -> None:
    disk = PrefixDisk(folder, MODEL, capacity_bytes=4000)
    for index in range(30):
        tokens = [(seed + index) % 7]
        disk.save(saved(tokens, data=bytes(tokens) * 900))
        entry = disk.longest("", tokens)
        if entry is not None:
            assert entry.data == bytes(tokens) * 900


def test_processes_that_share_a_folder_never_see_half_a_file(folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work, args=(folder, seed)) for seed in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert all(path.suffix == ".kv" for path in folder.iterdir())
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 3 * 4000

"""A conversion that is interrupted anywhere, and the run that goes on with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgeapp_converters import crew, meter, pieces, writer
from edgeapp_converters.events import StageProgress, Warned
from edgeapp_converters.imatrix import Imatrix
from edgeapp_converters.journal import Journal
from edgeapp_converters.metadata import u32
from tests.converters import small_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from edgeapp_converters.events import ConversionEvent
    from edgeapp_converters.partial_gguf import PartialGguf
    from tests.converters.raw_source import RawSource

_KILLS = int(os.environ.get("EDGEAPP_TEST_KILLS", "6"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RawSource]:
    made = small_model.make_source(tmp_path_factory.mktemp("checkpoint") / "shards")
    yield made
    made.close()


@pytest.fixture(scope="module")
def expected_sha256(source: RawSource, tmp_path_factory: pytest.TempPathFactory) -> str:
    return _sha256(small_model.write(source, tmp_path_factory.mktemp("expected") / "out.gguf"))


@pytest.fixture(autouse=True)
def many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_ELEMENTS", 1 << 15)


def _sha256(part: PartialGguf) -> str:
    try:
        return part.commit()
    finally:
        part.close()


def _start(source: RawSource, target: Path) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-m", "tests.converters.small_model", str(source.folder), str(target)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def test_killed_at_random_points_it_ends_with_the_same_sha256(
    source: RawSource, tmp_path: Path, expected_sha256: str
) -> None:
    random, target, most_taken_over = np.random.default_rng(7), tmp_path / "out.gguf", 0
    for _ in range(_KILLS):
        child = _start(source, target)
        most_taken_over = max(most_taken_over, _watch(child, random.uniform(0, 0.3)))
        time.sleep(random.uniform(0, 0.01))
        child.send_signal(signal.SIGKILL)
        child.communicate()
    out, _ = _start(source, target).communicate(timeout=60)
    assert out.split()[-1] == expected_sha256
    assert _names(tmp_path) == ["out.gguf"]
    assert most_taken_over > 0, "nothing was taken over from the runs that were killed"


def _watch(child: subprocess.Popen[str], share: float) -> int:
    """Wait until `child` has done this share of all the work itself; return what it took over."""
    taken_over = -1
    assert child.stdout is not None
    for line in child.stdout:
        stage, done, total = line.split() if line.startswith("converting") else ("", "0", "1")
        if stage and taken_over < 0:
            taken_over = int(done)
        if stage and int(done) - taken_over >= share * int(total):
            break
    return taken_over


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_ctrl_c_keeps_the_part_and_ends_the_threads(
    source: RawSource, tmp_path: Path, expected_sha256: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "_TICK_S", 0.005)
    monkeypatch.setattr(meter, "_REPORT_S", 0)

    def interrupt(event: ConversionEvent) -> None:
        if isinstance(event, StageProgress) and event.done > 0:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        small_model.write(source, tmp_path / "out.gguf", n_threads=1, report=interrupt)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("piece")]
    events: list[ConversionEvent] = []
    digest = _sha256(small_model.write(source, tmp_path / "out.gguf", report=events.append))
    assert digest == expected_sha256
    progress = [event for event in events if isinstance(event, StageProgress)]
    assert progress[0].stage == "checking"
    resumed = next(event for event in progress if event.stage == "converting")
    assert 0 < resumed.done < resumed.total


def test_a_finished_part_is_taken_over_without_reading_the_source(
    source: RawSource, tmp_path: Path, expected_sha256: str
) -> None:
    small_model.write(source, tmp_path / "out.gguf").close()
    source.log.clear()
    part = small_model.write(source, tmp_path / "out.gguf")
    assert {action for action, _ in source.log} == {"release"}
    assert _sha256(part) == expected_sha256


def test_a_patched_part_starts_with_its_first_header_again(
    source: RawSource, tmp_path: Path, expected_sha256: str
) -> None:
    part = small_model.write(source, tmp_path / "out.gguf")
    part.patch("edgeapp.quality.n_tokens", u32(5))
    part.close()
    assert _sha256(small_model.write(source, tmp_path / "out.gguf")) == expected_sha256


def test_damaged_pieces_are_found_and_made_again(
    source: RawSource, tmp_path: Path, expected_sha256: str
) -> None:
    part = small_model.write(source, tmp_path / "out.gguf")
    part.close()
    with part.path.open("r+b") as file:
        file.seek(500_000)
        file.write(b"damage")
    events: list[ConversionEvent] = []
    again = small_model.write(source, tmp_path / "out.gguf", report=events.append)
    assert [event.message for event in events if isinstance(event, Warned)] == [
        "1 pieces that an earlier run wrote are damaged and are made again."
    ]
    assert _sha256(again) == expected_sha256


def test_another_fingerprint_starts_anew_and_says_so(
    source: RawSource, tmp_path: Path, expected_sha256: str
) -> None:
    small_model.write(source, tmp_path / "out.gguf", fingerprint="before").close()
    events: list[ConversionEvent] = []
    part = small_model.write(source, tmp_path / "out.gguf", fingerprint="after", report=events.append)
    assert _is_started_anew(events)
    assert _sha256(part) == expected_sha256


def test_another_importance_matrix_starts_anew(source: RawSource, tmp_path: Path) -> None:
    def matrix(value: float) -> Imatrix:
        shape = (small_model.N_EXPERT, small_model.COLUMNS)
        columns = np.full(shape, value, np.float32)
        columns[:, ::3] = 1
        return Imatrix(
            entries={"blk.0.ffn_up_exps.weight": columns},
            counts={"blk.0.ffn_up_exps.weight": np.ones(small_model.N_EXPERT, np.float32)},
        )

    small_model.write(source, tmp_path / "out.gguf", imatrix=matrix(2)).close()
    events: list[ConversionEvent] = []
    small_model.write(source, tmp_path / "out.gguf", imatrix=matrix(3), report=events.append).close()
    assert _is_started_anew(events)


def _is_started_anew(events: list[ConversionEvent]) -> bool:
    warnings = [event.message for event in events if isinstance(event, Warned)]
    first = next(event for event in events if isinstance(event, StageProgress))
    return warnings == ["out.gguf.part is of another conversion and is started anew."] and first.done == 0


def test_a_foreign_part_of_another_size_is_replaced(
    source: RawSource, tmp_path: Path, expected_sha256: str
) -> None:
    (tmp_path / "out.gguf.part").write_bytes(b"\xff" * 9_000_000)
    assert _sha256(small_model.write(source, tmp_path / "out.gguf")) == expected_sha256


def test_a_journal_without_its_part_is_worth_nothing(
    source: RawSource, tmp_path: Path, expected_sha256: str
) -> None:
    part = small_model.write(source, tmp_path / "out.gguf")
    part.close()
    part.path.unlink()
    assert _sha256(small_model.write(source, tmp_path / "out.gguf")) == expected_sha256


@pytest.mark.parametrize(
    "tail", [b"[[3,", b"[[3,5]]", b"garbage\n", b'{"a":1}\n', b"[[3]]\n", b"[[-1,5]]\n", b"[[99999,5]]\n"]
)
def test_a_damaged_end_of_the_journal_is_ignored(
    source: RawSource, tmp_path: Path, expected_sha256: str, tail: bytes
) -> None:
    part = small_model.write(source, tmp_path / "out.gguf")
    part.close()
    with part.journal_path.open("ab") as file:
        file.write(tail)
    assert _sha256(small_model.write(source, tmp_path / "out.gguf")) == expected_sha256


def test_the_journal_never_says_more_than_the_disk_has(
    source: RawSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every batch is synced before it is written down."""
    order: list[str] = []
    sync, append = writer.PartialGguf.sync_data, Journal.append

    def logged_sync(part: PartialGguf) -> None:
        order.append("data")
        sync(part)

    def logged_append(journal: Journal, batch: Sequence[tuple[int, int]]) -> None:
        order.append("journal")
        append(journal, batch)

    monkeypatch.setattr(writer, "_BATCH_BYTES", 1)
    monkeypatch.setattr(writer.PartialGguf, "sync_data", logged_sync)
    monkeypatch.setattr(Journal, "append", logged_append)
    small_model.write(source, tmp_path / "out.gguf").close()
    assert order
    assert order == ["data", "journal"] * (len(order) // 2)


def test_a_shard_is_given_back_only_when_all_of_it_is_in_the_journal(
    source: RawSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source may delete it then, and a run after a power cut would have to fetch it again."""
    seen: dict[str, int] = {}

    def release(shard: str) -> None:
        lines = (tmp_path / "out.gguf.part.journal").read_text().splitlines()[1:]
        seen[shard] = sum(len(json.loads(line)) for line in lines)

    monkeypatch.setattr(source, "release", release)
    small_model.write(source, tmp_path / "out.gguf").close()
    n_pieces_of_three = 2 * 10 + 1  # two experts and the FP8 weight whose scales it has
    assert seen["three"] == seen["one"] == seen["two"] + n_pieces_of_three


@pytest.mark.parametrize("torn", [b"[[2,2", b"[[2,20]]"])
def test_lines_after_a_torn_one_are_appended_where_it_began(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "journal"
    journal = Journal(path, identity="x")
    journal.restart()
    journal.append([(1, 10)])
    journal.close()
    with path.open("ab") as file:
        file.write(torn)
    journal = Journal(path, identity="x")
    assert journal.is_ours
    assert list(journal.batches()) == [[(1, 10)]]
    journal.append([(3, 30)])
    assert list(journal.batches()) == [[(1, 10)], [(3, 30)]]
    journal.close()
    assert [json.loads(line) for line in path.read_text().splitlines()][1:] == [[[1, 10]], [[3, 30]]]
    other = Journal(path, identity="y")
    assert not other.is_ours
    other.close()

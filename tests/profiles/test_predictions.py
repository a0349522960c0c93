"""The last records: bounded, shared between processes, readable after damage."""

from __future__ import annotations

import fcntl
import threading
from typing import TYPE_CHECKING

from msgspec.structs import replace

from edgeapp import paths
from edgeapp.profiles import predictions
from edgeapp.profiles.predictions import last_records, record
from tests.profiles.records import a_record

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def file() -> Path:
    return paths.cache_dir() / "profiles" / "predictions.jsonl"


def test_what_was_recorded_comes_back_in_order() -> None:
    entries = [replace(a_record(), at_s=float(number)) for number in range(3)]
    for entry in entries:
        record(entry)
    assert last_records() == tuple(entries)
    assert last_records(1) == (entries[-1],)


def test_nothing_recorded_is_nothing() -> None:
    assert last_records() == ()


def test_a_damaged_line_is_left_out_and_the_others_stay() -> None:
    record(a_record(model="first.gguf"))
    with file().open("ab") as stream:
        stream.write(b'{"at_s": 1\n\xff\xfe\n[]\n')
    record(a_record(model="second.gguf"))
    assert [entry.model for entry in last_records()] == ["first.gguf", "second.gguf"]


def test_the_file_stays_small_and_keeps_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "_MAX_FILE_BYTES", 8000)
    for number in range(100):
        record(replace(a_record(), at_s=float(number)))
        assert file().stat().st_size <= 8000
    times = [entry.at_s for entry in last_records()]
    assert times == [float(number) for number in range(100 - len(times), 100)]
    assert len(times) >= 4


def test_who_records_waits_for_who_shortens_the_file() -> None:
    record(a_record(model="first.gguf"))
    waiting = threading.Thread(target=record, args=(a_record(model="second.gguf"),))
    with file().open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        waiting.start()
        waiting.join(0.3)
        assert [entry.model for entry in last_records()] == ["first.gguf"]
    waiting.join()
    assert [entry.model for entry in last_records()] == ["first.gguf", "second.gguf"]


def test_a_folder_that_cannot_be_written_costs_the_record_alone(isolated_user: Path) -> None:
    isolated_user.mkdir()
    (isolated_user / "cache").write_text("a file where the folder should be")
    record(a_record())
    assert last_records() == ()

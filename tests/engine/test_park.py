"""Conversations in files for the next worker: what is written, what is believed, what is left alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.engine import park
from edgeapp.engine.park import Outcome, Parcel, ParkedConversations
from edgeapp.engine.prefix_store import SavedSequence

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

KEY = "model"


def saved(*tokens: int, key: str = "", text: bytes = b"text", n_least: int = 0) -> SavedSequence:
    return SavedSequence(key=key, tokens=tokens, rendered=text, data=b"state" * 50, n_least=n_least)


def write(folder: Path, *entries: SavedSequence, most_bytes: int = 1 << 30) -> Outcome:
    parcel = Parcel(folder, KEY)
    parcel.collect(entries, most_bytes=most_bytes)
    return parcel.written()


def parked(folder: Path, *entries: SavedSequence) -> ParkedConversations:
    assert write(folder, *entries).n_conversations == len(entries)
    return ParkedConversations(folder, KEY)


def test_what_was_parked_comes_back_whole_and_its_file_goes(tmp_path: Path) -> None:
    conversations = parked(tmp_path, saved(*range(40)), saved(*range(100, 140)))
    assert len(conversations) == 2
    found = conversations.claim("", list(range(100, 150)), n_known=0)
    assert found is not None
    assert (found.tokens, found.rendered, found.data) == (tuple(range(100, 140)), b"text", b"state" * 50)
    assert len(conversations) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_other_adapters_or_another_model_find_nothing(tmp_path: Path) -> None:
    conversations = parked(tmp_path, saved(*range(40), key="adapter"))
    assert conversations.claim("", list(range(40)), n_known=0) is None
    assert len(ParkedConversations(tmp_path, "another model")) == 0
    assert not list(tmp_path.iterdir())


def test_what_is_known_better_is_not_read(tmp_path: Path) -> None:
    conversations = parked(tmp_path, saved(*range(40)))
    assert conversations.claim("", list(range(40)), n_known=40) is None
    assert len(list(tmp_path.iterdir())) == 1


def test_a_conversation_that_only_begins_alike_leaves_it_to_its_own(tmp_path: Path) -> None:
    conversations = parked(tmp_path, saved(*range(40)))
    assert conversations.claim("", [*range(10), 99], n_known=0) is not None
    assert conversations.claim("", list(range(40)), n_known=0) is not None
    assert len(conversations) == 0


def test_a_state_that_cannot_be_cut_is_not_offered_for_a_part(tmp_path: Path) -> None:
    conversations = parked(tmp_path, saved(*range(40), n_least=40))
    assert conversations.claim("", [*range(39), 99], n_known=0) is None
    assert conversations.claim("", [*range(40), 99], n_known=0) is not None


def test_a_flipped_bit_anywhere_makes_it_as_if_it_had_not_been(tmp_path: Path) -> None:
    write(tmp_path, saved(*range(40)))
    (file,) = tmp_path.iterdir()
    data = file.read_bytes()
    for position in range(0, len(data), 7):
        file.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        conversations = ParkedConversations(tmp_path, KEY)
        assert conversations.claim("", list(range(60)), n_known=0) is None
        assert all(not conversations.verified(entry) for entry in conversations)
        assert not file.exists()


def test_a_file_that_was_cut_off_is_not_believed(tmp_path: Path) -> None:
    write(tmp_path, saved(*range(40)))
    (file,) = tmp_path.iterdir()
    data = file.read_bytes()
    for n_bytes in (0, 1, 20, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:n_bytes])
        assert len(ParkedConversations(tmp_path, KEY)) == 0


def test_what_nobody_continued_can_be_handed_on(tmp_path: Path) -> None:
    conversations = parked(tmp_path, saved(*range(60)), saved(*range(30)), saved(7, 8, 9))
    assert sorted(len(entry.tokens) for entry in conversations.remaining()) == [3, 60]  # 30 are in the 60
    assert len(conversations) == 0


def test_forgetting_deletes_the_files(tmp_path: Path) -> None:
    conversations = parked(tmp_path, saved(*range(40)), saved(7, 8, 9))
    assert conversations.clear() == 0
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_into_memory_is_written_at_once(tmp_path: Path) -> None:
    large, small = saved(*range(400)), saved(7, 8, 9)
    parcel = Parcel(tmp_path, KEY)
    parcel.collect([large, small], most_bytes=small.n_bytes)
    assert len(list(tmp_path.iterdir())) == 1
    outcome = parcel.written()
    assert outcome.n_conversations == len(ParkedConversations(tmp_path, KEY)) == 2
    assert outcome.n_bytes == sum(file.stat().st_size for file in tmp_path.iterdir())


def test_a_full_disk_loses_the_state_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(park, "SPARE_DISK_BYTES", 1 << 60)
    outcome = write(tmp_path, saved(1, 2), saved(3, 4))
    assert (outcome.n_conversations, outcome.n_lost, outcome.problem) == (0, 2, "the disk is full")
    assert not list(tmp_path.iterdir())

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from edgeapp import paths
from edgeapp.errors import HistoryBusy, HistoryDamaged, HistoryError, HistoryTooNew
from edgeapp.history import backups, conversations, database, deletions, open_history, schema, tree
from edgeapp.history import search as searching
from edgeapp.protocol import Message

if TYPE_CHECKING:
    from pathlib import Path

_DAY_S = 24 * 3600.0


def fill(file: Path, *titles: str) -> None:
    with open_history(file).database as opened:
        for title in titles:
            conversation = conversations.new(opened, title=title)
            tree.append(opened, conversation.id, Message(role="user", content=f"about {title} " * 50))


def titles(file: Path) -> list[str]:
    with open_history(file).database as opened:
        return sorted(each.title for each in conversations.page(opened))


def age(backup: Path, days: float) -> None:
    then_s = backup.stat().st_mtime - days * _DAY_S
    os.utime(backup, (then_s, then_s))


def damage(file: Path, *, first_page: int = 1, n_pages: int = 10_000) -> None:
    """Overwrite pages, by default all but the first, as a failing disk does."""
    content = bytearray(file.read_bytes())
    begin, end = first_page * 4096, min(len(content), (first_page + n_pages) * 4096)
    content[begin:end] = b"\xa5" * (end - begin)
    file.write_bytes(content)


def test_the_users_history_is_private_and_where_paths_says(isolated_user: Path) -> None:
    with open_history().database as opened:
        conversations.new(opened)
    file = paths.history_file()
    assert file.is_relative_to(isolated_user)
    modes = {stat.S_IMODE(each.stat().st_mode) for each in file.parent.iterdir()}
    assert (modes, stat.S_IMODE(file.parent.stat().st_mode)) == ({0o600}, 0o700)


def test_a_backup_is_made_once_a_day_and_two_are_kept(file: Path) -> None:
    newer, older = backups.backup_files(file)
    fill(file, "a")
    assert not newer.exists()
    fill(file, "b")
    assert newer.exists()
    fill(file, "c")
    assert not older.exists()
    age(newer, 1.1)
    fill(file, "d")
    with closing(sqlite3.connect(newer)) as new, closing(sqlite3.connect(older)) as old:
        count = "SELECT count(*) FROM conversations"
        assert (new.execute(count).fetchone(), old.execute(count).fetchone()) == ((3,), (1,))
    assert list(file.parent.glob("*.part*")) == []


@pytest.mark.parametrize("kind", ["overwritten", "noise", "emptied", "removed"])
def test_a_damaged_file_gives_way_to_the_last_backup_and_it_is_said(file: Path, kind: str) -> None:
    fill(file, "a")
    fill(file, "b")
    match kind:
        case "overwritten":
            damage(file)
        case "noise":
            file.write_bytes(os.urandom(20_000))
        case "emptied":
            file.write_bytes(b"")
        case _:
            file.unlink()
    opened = open_history(file)
    with opened.database as history:
        assert [each.title for each in conversations.page(history)] == ["a"]
        tree.append(history, 1, Message(role="user", content="life goes on"))
        assert len(searching.search(history, "life")) == 1
    assert "The backup of" in opened.notice
    kept = list(file.parent.glob("history.db.damaged-*"))
    assert (len(kept) == 1) == (kind in {"overwritten", "noise"})
    assert all(str(each) in opened.notice for each in kept)
    again = open_history(file)
    again.database.close()
    assert again.notice == ""


@pytest.mark.parametrize(("first_page", "n_pages"), [(0, 10_000), (1, 10_000), (1, 1), (4, 1)])
def test_a_damaged_backup_is_passed_over_for_the_older_one(file: Path, first_page: int, n_pages: int) -> None:
    newer, _ = backups.backup_files(file)
    fill(file, "a")
    fill(file, "b")
    age(newer, 2)
    fill(file, "c")
    damage(newer, first_page=first_page, n_pages=n_pages)
    damage(file)
    assert titles(file) == ["a"]


def test_without_a_good_backup_it_starts_empty_and_keeps_the_damaged_file(file: Path) -> None:
    fill(file, "a")
    damage(file)
    content = file.read_bytes()
    opened = open_history(file)
    opened.database.close()
    assert "no good backup" in opened.notice
    (kept,) = file.parent.glob("history.db.damaged-*")
    assert kept.read_bytes() == content


def test_a_damaged_history_is_not_replaced_while_another_process_has_it_open(file: Path) -> None:
    fill(file, "a")
    fill(file, "b")
    with open_history(file).database:
        damage(file)
        with pytest.raises(HistoryDamaged, match="another edgeapp has it open"):
            open_history(file)
    assert titles(file) == ["a"]


def test_a_damaged_file_never_becomes_a_backup(file: Path) -> None:
    newer, _ = backups.backup_files(file)
    fill(file, "a")
    fill(file, "b")
    age(newer, 2)
    damage(file)
    assert titles(file) == ["a"]
    with closing(sqlite3.connect(newer)) as backup:
        assert backup.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_damage_found_in_use_is_an_error_and_repaired_at_the_next_start(file: Path) -> None:
    fill(file, *map(str, range(40)))
    fill(file)
    with open_history(file).database as opened:
        opened.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        opened.execute("PRAGMA cache_size=0")
        damage(file)
        with pytest.raises(HistoryDamaged, match="damaged"):
            conversations.page(opened)
    assert database.suspect_file(file).exists()
    assert len(titles(file)) == 40
    assert not database.suspect_file(file).exists()


def test_a_broken_search_index_is_made_anew(file: Path) -> None:
    fill(file, "gear")
    with open_history(file).database as opened:
        # Row 1 counts, row 10 is the structure; the words themselves are in the rows above.
        opened.execute("UPDATE message_search_data SET block = x'00' WHERE id > 10")
        with pytest.raises(HistoryDamaged):
            searching.search(opened, "about")
    opened_again = open_history(file)
    with opened_again.database as opened:
        assert len(searching.search(opened, "about")) == 1
    assert opened_again.notice == ""


def test_a_search_index_that_cannot_be_made_anew_is_damage(file: Path) -> None:
    fill(file, "gear")
    fill(file)
    with open_history(file).database as opened:
        opened.execute("DELETE FROM message_search_data")
        with pytest.raises(HistoryDamaged):
            searching.search(opened, "about")
    opened_again = open_history(file)
    with opened_again.database as opened:
        assert len(searching.search(opened, "about")) == 1
    assert "The backup of" in opened_again.notice


def test_a_newer_file_is_refused_and_left_alone(file: Path) -> None:
    fill(file, "a")
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")
    with pytest.raises(HistoryTooNew, match="version 2; this edgeapp knows versions up to 1"):
        open_history(file)
    assert not backups.backup_files(file)[0].exists()


def test_another_programs_database_is_refused(file: Path) -> None:
    file.parent.mkdir()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE bookmarks (id INTEGER)")
    with pytest.raises(HistoryError, match="another program"):
        open_history(file)


def test_an_older_file_is_backed_up_and_migrated(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(file, "a")
    fill(file)
    fill(file, "b")
    more = (*schema.MIGRATIONS, ("ALTER TABLE conversations ADD COLUMN colour TEXT NOT NULL DEFAULT 'red'",))
    monkeypatch.setattr(schema, "MIGRATIONS", more)
    with open_history(file).database as opened:
        assert opened.rows("SELECT title, colour FROM conversations") == [("a", "red"), ("b", "red")]
    with closing(sqlite3.connect(backups.backup_files(file)[0])) as backup:
        assert backup.execute("SELECT count(*) FROM conversations").fetchone() == (2,)


def test_a_migration_that_fails_leaves_the_file_as_it_was(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(file, "a")
    broken = (*schema.MIGRATIONS, ("DROP TABLE messages", "nonsense"))
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", broken)
        with pytest.raises(HistoryError, match="nonsense"):
            open_history(file)
    with open_history(file).database as opened:
        assert len(tree.path(opened, 1)) == 1


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HistoryError, match="cannot be used"):
        open_history(tmp_path / "file" / "history.db")


def test_a_lock_that_is_not_given_back_is_one_sentence(file: Path) -> None:
    with open_history(file).database as one:
        connection = database.connect(file, busy_timeout_s=0.01)
        two = database.Database(connection, file)
        with one.writing(), pytest.raises(HistoryBusy, match="Another edgeapp"):
            conversations.new(two)
        conversations.new(two)
        two.close()


def test_what_is_purged_is_overwritten_at_once(file: Path) -> None:
    with open_history(file).database as opened:
        conversation = conversations.new(opened)
        tree.append(opened, conversation.id, Message(role="user", content="unmistakable hidden"))
        deletions.delete_conversation(opened, conversation.id)
        assert deletions.purge(opened) == 1
        files = [each for each in file.parent.iterdir() if each.stat().st_size]
        assert [each.name for each in files if b"unmistakable hidden" in each.read_bytes()] == []


def test_deletions_of_last_week_are_gone_at_the_next_start(file: Path) -> None:
    fill(file, "a", "b")
    with open_history(file).database as opened:
        now_s = opened.now_s()
        deletions.delete_conversation(opened, 1)
    with open_history(file, clock_s=lambda: now_s + 6 * _DAY_S).database as opened:
        assert opened.row("SELECT count(*) FROM conversations") == (2,)
    with open_history(file, clock_s=lambda: now_s + 8 * _DAY_S).database as opened:
        assert opened.rows("SELECT title FROM conversations") == [("b",)]
        assert deletions.undo(opened) is None

"""Processes that are killed, that write at once, and disks that are full: all of it real."""

from __future__ import annotations

import random
import resource
import sqlite3
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from pathlib import Path

import pytest

from edgeapp.errors import HistoryFull
from edgeapp.history import AnswerWriter, conversations, open_history, tree
from edgeapp.history.answer_writer import begin_answer
from edgeapp.protocol import Message

_HAMMER = Path(__file__).with_name("hammer.py")
_ROOT = Path(__file__).parents[2]


def start(file: Path, mark: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, str(_HAMMER), str(file), mark], stdout=subprocess.PIPE, cwd=_ROOT
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def kill(process: subprocess.Popen[bytes]) -> list[str]:
    """Kill it, and return what it had said was kept."""
    process.kill()
    output, _ = process.communicate()
    return output.decode().splitlines()


def assert_kept(file: Path, acknowledged: list[str]) -> None:
    opened = open_history(file)
    assert opened.notice == ""
    with opened.database as database:
        assert database.rows("PRAGMA integrity_check") == [("ok",)]
        assert database.rows("PRAGMA foreign_key_check") == []
        everything = " ".join(text for (text,) in database.rows("SELECT text FROM messages ORDER BY id"))
        words = set(everything.split())
        assert [each for each in acknowledged if each not in words] == []
        assert database.rows("SELECT 1 FROM messages WHERE state = 'stopped' AND role = 'user'") == []


def test_twenty_kills_at_random_moments_lose_nothing_that_was_acknowledged(file: Path) -> None:
    random_moments = random.Random(7)
    acknowledged: list[str] = []
    for generation in range(10):
        pair = [start(file, f"w{generation}a"), start(file, f"w{generation}b")]
        time.sleep(random_moments.uniform(0.0, 0.06))
        for process in pair:
            acknowledged += kill(process)
    assert_kept(file, acknowledged)
    assert len(acknowledged) > 50


def test_a_killed_answer_is_marked_as_stopped(file: Path) -> None:
    with open_history(file).database as database:
        conversation = conversations.new(database)
        now_s = 0.0
        writer = begin_answer(database, conversation.id, monotonic_s=lambda: now_s)
        assert tree.message(database, writer.message_id).state == "stopped"
        writer.add("kept")
        now_s = 1.0
        writer.add(" too")
        writer.add(" and lost")
    with open_history(file).database as database:
        (stored,) = tree.path(database, conversation.id)
        assert (stored.message.content, stored.state) == ("kept too", "stopped")


def test_two_processes_write_at_once_and_both_are_kept(file: Path) -> None:
    pair = [start(file, "one"), start(file, "two")]
    time.sleep(0.3)
    acknowledged = [kill(process) for process in pair]
    assert all(acknowledged)
    assert_kept(file, [*acknowledged[0], *acknowledged[1]])


def test_a_full_database_is_one_sentence_and_loses_nothing(file: Path) -> None:
    with open_history(file).database as database:
        conversation = conversations.new(database)
        tree.append(database, conversation.id, Message(role="user", content="before"))
        (n_pages,) = database.row("PRAGMA page_count") or (0,)
        database.execute(f"PRAGMA max_page_count = {n_pages}")
        with pytest.raises(HistoryFull, match="disk is full"):
            tree.append(database, conversation.id, Message(role="user", content=1_000_000 * "x"))
        assert [each.message.content for each in tree.path(database, conversation.id)] == ["before"]
        database.execute(f"PRAGMA max_page_count = {n_pages + 10_000}")
        tree.append(database, conversation.id, Message(role="user", content="after"))
    assert_kept(file, ["before", "after"])


def test_a_running_answer_outlives_a_disk_that_is_full_for_a_while(file: Path) -> None:
    with open_history(file).database as database:
        conversation = conversations.new(database)
        seconds = iter(range(1000))
        writer = begin_answer(database, conversation.id, monotonic_s=lambda: float(next(seconds)))
        (n_pages,) = database.row("PRAGMA page_count") or (0,)
        database.execute(f"PRAGMA max_page_count = {n_pages}")
        writer.add(500_000 * "x")
        assert isinstance(writer.problem, HistoryFull)
        with pytest.raises(HistoryFull):
            writer.finish("complete")
        database.execute(f"PRAGMA max_page_count = {n_pages + 10_000}")
        writer.add("y")
        assert writer.problem is None
        assert writer.finish("complete").message.content == 500_000 * "x" + "y"


_FILL_SMALL_DISK = textwrap.dedent("""
    import sys
    from pathlib import Path
    from edgeapp.errors import HistoryFull
    from edgeapp.history import conversations, open_history, tree
    from edgeapp.protocol import Message

    file = Path(sys.argv[1]) / "history" / "history.db"
    database = open_history(file).database
    conversation = conversations.new(database)
    kept = 0
    try:
        while True:
            tree.append(database, conversation.id, Message(role="user", content=f"n{kept} " + 5000 * "x"))
            kept += 1
    except HistoryFull as problem:
        print(problem.message)
    assert len(tree.path(database, conversation.id)) == kept, "what was kept is still there"
    database.close()
    opened = open_history(file)
    assert opened.notice == "", opened.notice
    assert len(tree.path(opened.database, conversation.id)) == kept
    assert opened.database.rows("PRAGMA integrity_check") == [("ok",)]
    print("kept", kept)
""")


def test_a_real_disk_that_fills_up_is_one_sentence_and_loses_nothing(tmp_path: Path) -> None:
    script = tmp_path / "fill.py"
    script.write_text(_FILL_SMALL_DISK)
    disk = tmp_path / "disk"
    disk.mkdir()
    run = f'PYTHONPATH="{_ROOT}" "{sys.executable}" "{script}" "{disk}"'
    mounted = f'mount -t tmpfs -o size=1m none "{disk}" && {run}'
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mounted],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "kept" not in done.stdout and "Traceback" not in done.stderr:
        pytest.skip(f"no disk of its own for the test: {done.stderr.strip()}")
    assert "The disk is full" in done.stdout, done.stderr
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 5


def test_a_limit_on_the_file_size_loses_nothing(file: Path, tmp_path: Path) -> None:
    script = tmp_path / "fill.py"
    script.write_text(_FILL_SMALL_DISK)
    done = subprocess.run(
        [sys.executable, str(script), str(file.parent)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000)),
        env={"PYTHONPATH": str(_ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "kept" in done.stdout


def test_a_writer_may_go_on_after_its_answer_was_deleted(file: Path) -> None:
    with open_history(file).database as database:
        writer = AnswerWriter(database, 99)
        writer.add("x")
        writer.tick()
        assert writer.problem is None


def test_a_plain_sqlite_can_read_it(file: Path) -> None:
    with open_history(file).database as database:
        conversations.new(database, title="open to all")
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT title FROM conversations").fetchall() == [("open to all",)]

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from edgeapp import paths
from edgeapp.cli.history import command
from edgeapp.errors import HistoryError, InvalidExport, NotInHistory, UsageError
from edgeapp.history import conversations, open_history, tree
from edgeapp.protocol import Message

if TYPE_CHECKING:
    from pathlib import Path


def invoke(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(command, list(arguments), input=stdin, catch_exceptions=False)


def talk(title: str, *texts: str) -> int:
    with open_history().database as database:
        conversation = conversations.new(database, title=title, model="moe")
        for text in texts:
            tree.append(database, conversation.id, Message(role="user", content=text))
        return conversation.id


def test_the_list_has_pinned_ones_first() -> None:
    assert invoke().output == "There is no conversation yet.\n"
    first, second = talk("Gears"), talk("Oil")
    invoke("pin", str(first))
    for output in (invoke().output, invoke("list").output):
        _, pinned, other = output.splitlines()
        assert pinned.split()[:2] == [str(first), "pinned"]
        assert other.split()[-2:] == ["Oil", "moe"]
    invoke("pin", str(first), "--off")
    rows = json.loads(invoke("list", "--json", "--limit", "1").output)
    assert [(row["id"], row["is_pinned"]) for row in rows] == [(second, False)]


def test_a_search_shows_the_conversation_and_the_place() -> None:
    identity = talk("Warm box", "why is the\ngear box warm?")
    assert (
        invoke("search", "gear", "box").output
        == f"{identity:>5}  Warm box\n       why is the gear box warm?\n"
    )
    (hit,) = json.loads(invoke("search", "gear", "--json").output)
    assert [part["text"] for part in hit["excerpt"] if part["is_match"]] == ["gear"]
    assert invoke("search", "bread").output == "Nothing found.\n"


def test_a_conversation_is_shown_as_markdown_or_json() -> None:
    identity = talk("Gears", "why?")
    assert "## You\n\nwhy?\n" in invoke("show", str(identity)).output
    shown = json.loads(invoke("show", str(identity), "--json").output)
    assert shown["messages"][0]["message"]["content"] == "why?"


def test_an_export_comes_back_by_import(tmp_path: Path) -> None:
    talk("Gears", "why?")
    talk("Oil", "how much?")
    file = tmp_path / "all.json"
    invoke("export", "--all", "--format", "json", "-o", str(file))
    assert invoke("import", str(file)).output == "Added 2 conversations.\n"
    assert len(json.loads(invoke("list", "--json").output)) == 4
    assert json.loads(invoke("import", "-", "--json", stdin=file.read_text()).output) == {"added": [5, 6]}


def test_a_rename_and_a_deletion_with_its_undo() -> None:
    identity = str(talk("Gears"))
    assert invoke("rename", identity, "Cog  wheels").output == f"{identity} is called 'Cog wheels' now.\n"
    assert invoke("delete", identity).output == f"Deleted {identity}.\n"
    assert json.loads(invoke("list", "--json").output) == []
    assert invoke("undo").output == f"{identity} (Cog wheels) is back.\n"
    assert invoke("delete", identity, "--now").output == f"Deleted {identity} for good.\n"
    with pytest.raises(HistoryError, match="no deletion"):
        invoke("undo")


def test_what_was_deleted_for_good_is_not_in_the_file() -> None:
    identity = str(talk("Gears", "unmistakable hidden"))
    invoke("delete", identity, "--now")
    folder = paths.history_file().parent
    live = [file for file in folder.iterdir() if "backup" not in file.name]
    assert not any(b"unmistakable hidden" in file.read_bytes() for file in live)


def test_one_wrong_number_deletes_nothing() -> None:
    identity = str(talk("Gears"))
    with pytest.raises(NotInHistory, match="77"):
        invoke("delete", identity, "77")
    assert len(json.loads(invoke("list", "--json").output)) == 1


def test_a_failure_with_json_is_an_object_too() -> None:
    result = CliRunner().invoke(command, ["show", "5", "--json"])
    assert json.loads(result.stdout)["error"]["code"] == "not_in_history"


def test_wrong_use_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--all"):
        invoke("export")
    with pytest.raises(UsageError, match="cannot be read"):
        invoke("import", str(tmp_path / "none.json"))
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(InvalidExport, match="no export"):
        invoke("import", str(tmp_path / "bad.json"))


def test_a_restored_history_is_said_on_stderr() -> None:
    talk("Gears")
    talk("Oil")
    paths.history_file().write_bytes(b"noise" * 3000)
    result = invoke("list", "--json")
    assert "The backup of" in result.stderr
    assert [row["title"] for row in json.loads(result.stdout)] == ["Gears"]

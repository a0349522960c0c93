"""`edgeapp preset` as a script sees it; the answers are the demo model's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner, Result

from edgeapp.cli.preset import command
from edgeapp.cli.preset_report import CaseResult, CasesReport
from edgeapp.cli.preset_values import read_values
from edgeapp.errors import EdgeappError, EngineError, UsageError
from edgeapp.presets import Preset, Variable, load_preset, own_dir, write_preset

if TYPE_CHECKING:
    from pathlib import Path

DENSE_DEMO = "smollm2-135m"
INVOICE = "Bolt Ltd. Invoice 9, 2025-03-04. Total 12.50 EUR"


def preset(*arguments: str | Path, stdin: str | None = None) -> Result:
    done = CliRunner().invoke(command, [*map(str, arguments)], input=stdin)
    if isinstance(done.exception, EdgeappError):
        raise done.exception
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def test_run_prints_json_that_the_schema_allows(tmp_path: Path) -> None:
    (tmp_path / "invoice.txt").write_text(INVOICE)
    done = preset(
        "run", "extract", "--var", f"text=@{tmp_path / 'invoice.txt'}", "--model", DENSE_DEMO, "--json"
    )
    answer = json.loads(done.stdout)
    assert set(answer) == {"supplier", "number", "date", "total", "currency"}
    assert answer["total"] == 12.5


def test_an_answer_that_was_cut_off_is_no_json() -> None:
    with pytest.raises(EngineError, match="ended after 3 tokens"):
        preset(
            "run", "extract", "--var", f"text={INVOICE}", "--model", DENSE_DEMO, "--json", "--max-tokens", "3"
        )


def test_an_answer_streams_as_text_in_the_form_of_the_preset() -> None:
    done = preset("run", "classify", "--var", "text=I forgot my password.", "--model", DENSE_DEMO)
    assert done.exit_code == 0
    assert done.stdout.strip() in {"billing", "delivery", "defect", "account", "other"}


def test_a_test_prints_accuracy_with_its_interval() -> None:
    done = preset("test", "classify", "--model", DENSE_DEMO, "--json")
    report = json.loads(done.stdout)
    assert report["cases"] == len(report["answers"]) >= 10
    low, high = report["accuracy_interval"]
    assert 0 <= low <= report["accuracy"] == report["right"] / report["cases"] <= high <= 1
    assert report["right"] > 0
    assert report["prompt_tokens"] > report["completion_tokens"] > 0


def test_a_report_is_a_table_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    result = CaseResult(
        text="a", is_right=True, is_valid=False, prompt_tokens=5, completion_tokens=2, answer_s=1.0
    )
    CasesReport(preset="p", model="m", n_expert_used=2, has_schema=True, results=(result,) * 4).print()
    printed = capsys.readouterr().out
    for text in ("4 of 4", "100% (95 % interval 51% to 100%)", "0%", "20 read, 8 written", "4.0 s"):
        assert text in printed


def test_list_show_and_export_agree_on_what_there_is(tmp_path: Path) -> None:
    names = [row["name"] for row in json.loads(preset("list", "--json").stdout)]
    assert "extract" in names
    assert "extract" in preset("list").stdout
    assert json.loads(preset("show", "extract", "--json").stdout)["name"] == "extract"
    preset("export", "extract", "-o", tmp_path / "other.toml")
    preset("import", tmp_path / "other.toml", "--name", "mine")
    assert load_preset("mine").schema == load_preset("extract").schema


def test_a_new_preset_begins_as_another_one() -> None:
    preset("new", "my-task", "--from", "classify")
    assert load_preset("my-task").regex == load_preset("classify").regex
    with pytest.raises(UsageError, match="already"):
        preset("new", "my-task")
    with pytest.raises(UsageError, match="no tests"):
        preset("test", "my-task")


def test_edit_opens_a_copy_of_what_ships(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(click, "edit", lambda *, filename: opened.append(filename))
    preset("edit", "general")
    assert opened == [str(own_dir() / "general.toml")]
    assert load_preset("general").name == "general"


def test_a_modelfile_and_a_pattern_are_imported_with_notes(tmp_path: Path) -> None:
    modelfile = tmp_path / "Modelfile"
    modelfile.write_text("FROM x\nSYSTEM You are a pirate.\n")
    assert "FROM x was left out" in preset("import", modelfile, "--name", "pirate").stderr
    assert load_preset("pirate").system == "You are a pirate."
    pattern = tmp_path / "sum_up"
    pattern.mkdir()
    (pattern / "system.md").write_text("You sum up.")
    preset("import", pattern)
    assert load_preset("sum-up").system == "You sum up."
    with pytest.raises(EdgeappError, match="cannot be read"):
        preset("import", tmp_path / "nothing")


def test_an_image_is_refused_with_a_sentence() -> None:
    photo = Variable(name="photo", type="image")
    write_preset(Preset(name="look", description="d", template="{{ photo }}", variables=(photo,)))
    with pytest.raises(UsageError, match="an image"):
        preset("run", "look", "--var", "photo=a.png")


READER = Preset(
    name="r",
    description="d",
    template="{{ text }}{{ other }}",
    variables=(Variable(name="text"), Variable(name="other", type="file", required=False)),
)


def test_values_come_from_texts_and_files(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("\x1b[31mred\n")
    assert read_values(READER, ["text=a=b", f"other={file}"]) == {"text": "a=b", "other": "[31mred"}
    assert read_values(READER, [f"text=@{file}", "other=@" + str(file)])["text"] == "[31mred"
    assert read_values(READER, ["text=@@home", f"other={file}"])["text"] == "@home"


def test_a_value_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "large").write_bytes(b"a" * (5 << 20))
    for given, sentence in [
        ("text", "has no value"),
        ("text=@missing.txt", "no file missing.txt"),
        (f"text=@{tmp_path}", "no file"),
        ("text=@a\0b", "no file|cannot be read"),
        (f"text=@{tmp_path / 'binary'}", "not UTF-8"),
        (f"text=@{tmp_path / 'large'}", "larger than 4 MiB"),
    ]:
        with pytest.raises(UsageError, match=sentence):
            read_values(READER, [given])

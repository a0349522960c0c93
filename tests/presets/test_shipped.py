"""Every preset that ships: its file, its answer form, and its graded cases."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import jsonschema
import pytest

from edgeapp.engine.constraint import _native
from edgeapp.presets import is_right, is_valid, read_cases, read_preset, render
from edgeapp.presets.library import shipped_dir

if TYPE_CHECKING:
    from pathlib import Path

FILES = sorted(shipped_dir().glob("*.toml"))
MIN_CASES = 10
EXPECTED = {
    "classify",
    "code-complete",
    "code-review",
    "commit-message",
    "extract",
    "general",
    "inspect-image",
    "inspect-measurements",
    "legal-draft",
    "log-triage",
    "medical-qa",
    "rewrite",
    "shift-report",
    "sql",
    "summarise",
    "translate",
    "work-order",
}


def test_all_tasks_are_there() -> None:
    assert {file.stem for file in FILES} >= EXPECTED


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_shipped_preset_is_whole(file: Path) -> None:
    preset = read_preset(file)
    assert preset.name == file.stem
    cases = read_cases(file.parent / "tests" / preset.tests)
    assert len(cases) >= MIN_CASES
    assert len({json.dumps(case.values) for case in cases}) == len(cases)
    for case in cases:
        rendered = render(preset, case.values)
        if rendered.grammar is not None:
            assert _native(rendered.grammar)
        assert is_right(case, case.answer, schema=preset.schema), case.answer
        assert not is_right(case, '{"nothing": "of it"}', schema=preset.schema), case.answer
        for image in rendered.images:
            assert (file.parent / "tests" / image).read_bytes().startswith(b"\x89PNG")
        if preset.schema:
            jsonschema.validate(json.loads(case.answer), json.loads(preset.schema))
            assert is_valid(case.answer, preset.schema)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_case_gives_away_its_answer_as_an_example(file: Path) -> None:
    preset = read_preset(file)
    shown = {
        example.input if isinstance(example.input, str) else json.dumps(example.input)
        for example in preset.examples
    }
    asked = {
        text
        for case in read_cases(file.parent / "tests" / preset.tests)
        for text in (json.dumps(case.values), *map(str, case.values.values()))
    }
    assert not shown & asked


def test_no_shipped_file_is_an_orphan() -> None:
    used = {read_preset(file).tests for file in FILES}
    assert {path.name for path in (shipped_dir() / "tests").glob("*.jsonl")} == used

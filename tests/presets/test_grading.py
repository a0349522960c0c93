"""What each grader takes and refuses, and how cases are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeapp.errors import ConfigError
from edgeapp.presets import Case, is_right, is_valid, read_cases

if TYPE_CHECKING:
    from pathlib import Path


def case(grader: str, **how: Any) -> Case:
    return Case(**{"values": {}, "answer": "x", "grader": grader} | how)


@pytest.mark.parametrize(
    ("graded", "right", "wrong"),
    [
        (case("exact", answer="Yes, Sir"), " yes,\n sir ", "yes"),
        (case("contains", all=("Red", "blue"), none=("green",)), "blue or RED", "red, blue, green"),
        (case("contains", none=("green",)), "red", ""),
        (case("regex", pattern=r"\d{3}"), "a 123", "12"),
        (case("choice", label="pass"), "Pass.", "pass or fail"),
        (case("choice", label="pass", labels=("pass", "fail")), "The verdict: pass", "pass, not fail"),
        (case("number", value=12.5, tolerance=0.5), "so it is 12.9 mm", "13.1"),
        (case("number", value=1200), "1,200", "none"),
        (case("json", fields={"a.0.b": 1, "c": None}), '{"a": [{"b": 1.0}], "c": null}', '{"a": [{"b": 1}]}'),
        (case("json", fields={"a": True}), '{"a": true}', '{"a": 1}'),
        (case("json", fields={"a": "X y"}), '{"a": "x  Y"}', "[" * 100_000),
        (case("valid"), '{"a": 1}', '{"a": "1"}'),
    ],
)
def test_a_grader_knows_right_from_wrong(graded: Case, right: str, wrong: str) -> None:
    schema = '{"properties": {"a": {"type": "integer"}}}'
    assert is_right(graded, right, schema=schema)
    assert not is_right(graded, wrong, schema=schema)
    assert not is_right(graded, "  ", schema=schema)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "truncated"),
        ('{"values": {}, "grader": "magic", "answer": "a"}', "grader"),
        ('{"values": {}, "grader": "exact"}', "answer"),
        ('{"values": {}, "grader": "json", "answer": "a"}', "not told what to look for"),
        ('{"values": {}, "grader": "regex", "pattern": "(", "answer": "a"}', "pattern"),
        pytest.param("[" * 100_000, "array", id="deep"),
    ],
)
def test_a_case_that_cannot_be_meant_is_refused_with_its_line(
    tmp_path: Path, line: str, sentence: str
) -> None:
    file = tmp_path / "c.jsonl"
    file.write_text(f"\n{line}\n")
    with pytest.raises(ConfigError, match=sentence) as refusal:
        read_cases(file)
    assert "c.jsonl:2" in refusal.value.message


def test_no_case_is_no_test(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text("\n")
    with pytest.raises(ConfigError, match="0 cases"):
        read_cases(tmp_path / "c.jsonl")


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "n": {"type": "integer", "minimum": 0, "maximum": 9},
        "s": {"type": ["string", "null"], "maxLength": 2},
        "l": {"type": "array", "items": {"enum": [1, "a", None]}, "maxItems": 2},
        "u": {"anyOf": [{"type": "boolean"}, {"$ref": "#/$defs/small"}]},
    },
    "required": ["n"],
    "additionalProperties": False,
    "$defs": {"small": {"type": "number", "maximum": 1}},
}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 11) | st.sampled_from([0.5, 1.0, 2.5, "a", "bcd"]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from("nslux"), VALUES))
def test_validity_is_that_of_the_reference_validator(value: dict[str, Any]) -> None:
    import json

    expected = jsonschema.Draft202012Validator(SCHEMA).is_valid(value)
    assert is_valid(json.dumps(value), json.dumps(SCHEMA)) == expected

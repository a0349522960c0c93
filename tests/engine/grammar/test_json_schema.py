from __future__ import annotations

import json
from typing import Any

import pytest

from edgeapp.engine.grammar.json_schema import MAX_INTEGER, normalise_schema
from edgeapp.errors import GrammarError

_RECURSIVE = {"type": "object", "properties": {"a": {"$ref": "#"}}}


def _normal(schema: Any) -> Any:
    return json.loads(normalise_schema(json.dumps(schema)))


def test_annotations_are_left_out() -> None:
    assert _normal({"title": "t", "description": "d", "$id": "x", "type": "null"}) == {"type": "null"}


def test_an_integer_gets_the_bounds_that_every_reader_keeps() -> None:
    assert _normal({"type": "integer"}) == {
        "type": "integer",
        "minimum": -MAX_INTEGER,
        "maximum": MAX_INTEGER,
    }
    assert _normal({"type": ["integer", "number"]}) == {"type": ["integer", "number"]}


def test_references_are_numbered_wherever_they_point() -> None:
    normal = _normal({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "null"}, "unused": {"not": {}}}})
    assert normal == {"$ref": "#/$defs/0", "$defs": {"0": {"type": "null"}}}


def test_a_recursion_that_can_end_is_allowed() -> None:
    assert _normal(_RECURSIVE)["$defs"]


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"not": {}}, "keyword 'not'"),
        ({"items": {"contains": {}}}, "keyword 'contains'.*#/items"),
        ({"uniqueItems": True}, "uniqueItems"),
        ({"x-unknown": 1}, "x-unknown"),
        ({"items": [{}]}, "prefixItems"),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "prefixItems": [{}]}, "2020-12"),
        ({"$ref": "https://example.org/a"}, "inside it"),
        ({"$ref": "#/$defs/a"}, "does not have"),
        ({"format": "color"}, "format 'color'"),
        ({"type": "thing"}, "one or more of"),
        ({"maxItems": 5000}, "5000, the most is 4096"),
        ({"minLength": -1}, "whole number"),
        ({"const": 2**60}, "beyond"),
        ({"minimum": 1e-20}, "decimals"),
        ({"multipleOf": 99_991}, "from 1 to"),
        ({"allOf": [{"multipleOf": 997}, {"multipleOf": 991}]}, "product of all multipleOf"),
        ({"allOf": [{"pattern": f"a{{{n}}}"} for n in range(1, 15)]}, "14 patterns"),
        ({"minProperties": 2}, "cannot be guaranteed"),
        ({"enum": []}, "at least one value"),
        ({**_RECURSIVE, "required": ["a"]}, "no answer could end"),
        ({"properties": {f"p{n}": {} for n in range(300)}}, "300 names"),
        ({"anyOf": [{"enum": list(range(4000))}] * 2}, "more than 4096 elements"),
    ],
)
def test_what_cannot_be_guaranteed_is_refused_by_name(schema: Any, reason: str) -> None:
    with pytest.raises(GrammarError, match=reason):
        _normal(schema)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("", "not valid JSON"),
        ("[]", "an object or a boolean"),
        ('{"minimum": NaN}', "not valid JSON"),
        ('{"items":' * 40 + "{}" + "}" * 40, "more than 32 levels"),
        ('{"items":' * 20_000 + "{}" + "}" * 20_000, "far more than 32 levels"),
        ('{"title": "' + "a" * 300_000 + '"}', "bytes, the most is"),
    ],
)
def test_a_text_that_is_no_schema_is_refused(source: str, reason: str) -> None:
    with pytest.raises(GrammarError, match=reason):
        normalise_schema(source)

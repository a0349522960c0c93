"""JSON schemas made by hypothesis: every supported keyword, inside the caps, most of them satisfiable."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

Schemas = st.SearchStrategy[dict[str, Any]]

_NAMES = st.sampled_from(["a", "b", "name", "ä", 'q"', "back\\slash", "new\nline", "", "$ref", "{}"])
_TEXTS = st.text(st.characters(codec="utf-8"), max_size=6)
_SMALL = st.integers(0, 4)
_INTEGERS = st.integers(-1000, 1000)
_HALVES = st.integers(-2000, 2000).map(lambda n: n / 4)
_PATTERNS = st.sampled_from(
    [
        "^[a-z]+$", "ab", "^a|b$", "^(foo|bar)?$", "^\\d{2,4}-\\d+$", "[äöü]", "^\\x41\\u0042$",
        "^\\w+(\\.\\w+)*@x\\.y$", "^$", "(^a$)|(^bb$)", "^[\\]\\-x]$", '^"\\\\/$', "^.{2}$",
        "\\$\\^\\.", "^[^\\n]{3}$",
    ]
)  # fmt: skip
_FORMATS = st.sampled_from(
    ["date-time", "time", "date", "ipv4", "ipv6", "uuid", "email", "hostname", "duration"]
)


def _some(**keywords: st.SearchStrategy[Any]) -> Schemas:
    """Return dictionaries with any of these keys."""
    return st.fixed_dictionaries({}, optional=keywords)


def _typed(kind: Any, keywords: Schemas) -> Schemas:
    return keywords.map(lambda chosen: {"type": kind, **chosen})


_VALUES = st.recursive(
    st.none() | st.booleans() | _INTEGERS | _HALVES | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3),
    max_leaves=5,
)
_STRINGS = (
    _typed("string", _some(minLength=_SMALL, maxLength=st.integers(4, 9)))
    | _typed("string", _some(pattern=_PATTERNS))
    | _typed("string", _some(format=_FORMATS))
)
_NUMBERS = st.one_of(
    _typed(
        "integer", _some(minimum=_INTEGERS, maximum=st.integers(1000, 5000), multipleOf=st.integers(1, 50))
    ),
    _typed("integer", _some(exclusiveMinimum=_HALVES, exclusiveMaximum=st.integers(600, 700))),
    _typed(
        "number",
        _some(minimum=_HALVES, maximum=st.integers(500, 999), multipleOf=st.sampled_from([1, 2, 0.5])),
    ),
    _typed("number", _some(exclusiveMinimum=_HALVES, exclusiveMaximum=st.just(501.25))),
)
_SCALARS = st.one_of(
    st.just({"type": "null"}),
    st.just({"type": "boolean"}),
    _STRINGS,
    _NUMBERS,
    st.lists(_VALUES, min_size=1, max_size=4).map(lambda values: {"enum": values}),
    _VALUES.map(lambda value: {"const": value}),
    _typed(["integer", "null"], _some(minimum=_INTEGERS)),
    _typed(["string", "array"], _some(minLength=_SMALL, maxItems=_SMALL)),
    _some(minimum=_INTEGERS, maxLength=st.integers(1, 5), required=st.just(["a"])),
)


def _compound(inner: Schemas) -> Schemas:
    arrays = _typed("array", _some(items=inner, minItems=st.integers(0, 2), maxItems=st.integers(2, 5)))
    tuples = _typed(
        "array", _some(prefixItems=st.lists(inner, min_size=1, max_size=3), items=inner | st.just(False))
    )
    closed = st.fixed_dictionaries(
        {
            "type": st.just("object"),
            "properties": st.dictionaries(_NAMES, inner, max_size=4),
            "additionalProperties": st.just(False) | inner,
        }
    ).flatmap(_with_required)
    maps = _typed(
        "object",
        _some(additionalProperties=inner, minProperties=st.integers(0, 1), maxProperties=st.integers(1, 3)),
    )
    patterned = _typed(
        "object",
        _some(patternProperties=st.dictionaries(st.sampled_from(["^a", "^b[0-9]"]), inner, max_size=2)),
    )
    either = st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options})
    both = st.tuples(closed, closed).map(lambda parts: {"allOf": list(parts)})
    return st.one_of(arrays, tuples, closed, maps, patterned, either, both)


def _with_required(schema: dict[str, Any]) -> Schemas:
    names = sorted(schema["properties"])
    chosen = st.lists(st.sampled_from(names), unique=True) if names else st.just([])
    return chosen.map(lambda required: {**schema, "required": required})


_PLAIN = st.recursive(_SCALARS, _compound, max_leaves=8)


def _recursive(schema: dict[str, Any]) -> dict[str, Any]:
    """Make a linked list of `schema`, through a reference."""
    node = {
        "type": "object",
        "properties": {"value": schema, "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/a~1node"}]}},
        "required": ["value"],
        "additionalProperties": False,
    }
    return {"$ref": "#/$defs/a~1node", "$defs": {"a/node": node}}


def schemas() -> Schemas:
    return _PLAIN | _PLAIN.map(_recursive)

"""Tell whether an answer is JSON that a schema allows, independent of the engine that constrained it.

Knows the keywords below and local definitions; others do not make an answer invalid. Pure.
"""

from __future__ import annotations

import json
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "null": (type(None),),
    "number": (int, float),
    "integer": (int,),
}


def is_valid(answer: str, schema: str) -> bool:
    """Tell whether `answer` is JSON that `schema` allows; everything is, where `schema` is empty."""
    if not schema:
        return True
    rules = json.loads(schema)
    try:
        return _allows(rules, json.loads(answer), rules)
    except (ValueError, RecursionError):
        return False


def _allows(rule: Any, value: Any, root: Any) -> bool:
    if isinstance(rule, bool):
        return rule
    if "$ref" in rule:
        return _allows(_definition(rule["$ref"], root), value, root)
    return (
        _has_type(rule.get("type"), value)
        and ("enum" not in rule or _is_one_of(rule["enum"], value))
        and ("const" not in rule or _is_one_of([rule["const"]], value))
        and ("anyOf" not in rule or any(_allows(part, value, root) for part in rule["anyOf"]))
        and ("oneOf" not in rule or sum(_allows(part, value, root) for part in rule["oneOf"]) == 1)
        and all(_allows(part, value, root) for part in rule.get("allOf", ()))
        and _parts_allowed(rule, value, root)
    )


def _is_one_of(values: list[Any], value: Any) -> bool:
    return any(value == known and isinstance(value, bool) == isinstance(known, bool) for known in values)


def _has_type(names: str | list[str] | None, value: Any) -> bool:
    if names is None:
        return True
    wanted = [names] if isinstance(names, str) else names
    if isinstance(value, bool):
        return "boolean" in wanted
    whole = isinstance(value, float) and value.is_integer() and "integer" in wanted
    return whole or any(isinstance(value, _TYPES[name]) for name in wanted)


def _parts_allowed(rule: Any, value: Any, root: Any) -> bool:
    match value:
        case dict():
            return _object_allowed(rule, value, root)
        case list():
            in_range = rule.get("minItems", 0) <= len(value) <= rule.get("maxItems", len(value))
            return in_range and all(_allows(rule.get("items", True), item, root) for item in value)
        case str():
            return bool(rule.get("minLength", 0) <= len(value) <= rule.get("maxLength", len(value)))
        case bool() | None:
            return True
        case _:
            return bool(rule.get("minimum", value) <= value <= rule.get("maximum", value))


def _object_allowed(rule: Any, value: dict[str, Any], root: Any) -> bool:
    known = rule.get("properties", {})
    others = rule.get("additionalProperties", True)
    return all(name in value for name in rule.get("required", ())) and all(
        _allows(known.get(name, others), content, root) for name, content in value.items()
    )


def _definition(reference: str, root: Any) -> Any:
    """Only `#/…`; another reference raises `ValueError`."""
    if not reference.startswith("#"):
        raise ValueError(reference)
    rule = root
    for part in filter(None, reference[1:].split("/")):
        rule = rule[part]
    return rule

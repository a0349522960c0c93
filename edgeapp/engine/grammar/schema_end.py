"""Find out whether a value that satisfies a normalised JSON schema can be finite."""

from __future__ import annotations

from typing import Any

_COMPOUND = frozenset({"object", "array"})


def can_end(schema: dict[str, Any]) -> bool:
    """Return False when every value of the schema needs another value of the same schema inside it.

    It may return True for a schema that no value satisfies.
    """
    definitions: dict[str, Any] = schema.get("$defs", {})
    ending: set[str] = set()
    while True:
        more = {name for name, body in definitions.items() if name not in ending and _ends(body, ending)}
        if not more:
            return _ends(schema, ending)
        ending |= more


def _ends(schema: Any, ending: set[str]) -> bool:
    if isinstance(schema, bool):
        return True
    if "$ref" in schema and schema["$ref"].removeprefix("#/$defs/") not in ending:
        return False
    if not all(_ends(item, ending) for item in schema.get("allOf", [])):
        return False
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema and not any(_ends(item, ending) for item in schema[keyword]):
            return False
    return _has_finite_type(schema, ending)


def _has_finite_type(schema: dict[str, Any], ending: set[str]) -> bool:
    if "const" in schema or "enum" in schema:
        return True
    types = schema.get("type", [])
    types = {types} if isinstance(types, str) else set(types)
    return (
        not types <= _COMPOUND
        or not types
        or ("object" in types and _object_ends(schema, ending))
        or ("array" in types and _array_ends(schema, ending))
    )


def _object_ends(schema: dict[str, Any], ending: set[str]) -> bool:
    properties, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    return all(_ends(properties.get(name, others), ending) for name in schema.get("required", []))


def _array_ends(schema: dict[str, Any], ending: set[str]) -> bool:
    prefix, others = schema.get("prefixItems", []), schema.get("items", True)
    n_items = schema.get("minItems", 0)
    needed = [*prefix[:n_items], *([others] if n_items > len(prefix) else [])]
    return all(_ends(item, ending) for item in needed)

"""Check a JSON schema and write it anew for the constraint engine.

An answer must satisfy the schema for any validator, so what cannot be guaranteed is an error that names the
keyword; only annotations are dropped. Patterns are written in one dialect, local references become
`#/$defs/<number>`, and integers without bounds get those that every JSON reader keeps exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec

from edgeapp.engine.grammar.pattern import parse_pattern
from edgeapp.engine.grammar.reader import MAX_REPEAT
from edgeapp.engine.grammar.schema_end import can_end
from edgeapp.engine.grammar.tree import to_regex
from edgeapp.errors import GrammarError

MAX_SCHEMA_BYTES = 256 * 1024
MAX_SCHEMA_DEPTH = 32
MAX_SCHEMA_NODES = 4096
"""Schemas and constant values together."""
MAX_INTEGER = 2**53 - 1
"""RFC 8259, section 6: the integers on which all implementations agree."""
MAX_DECIMALS = 15
MAX_MULTIPLE = 10_000  # the automaton has one state for each remainder
MAX_PATTERNS = 12
"""Of one object's keys, or of a schema that joins others: 16 patterns for one string take half a second."""
MAX_PROPERTIES = 256
_JOINING = frozenset({"allOf", "anyOf", "oneOf", "$ref"})

_TYPES = frozenset({"null", "boolean", "object", "array", "number", "integer", "string"})
_ANNOTATIONS = frozenset(
    {
        "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment",
        "$schema", "$anchor", "contentMediaType", "contentEncoding", "contentSchema",
    }
)  # fmt: skip
_DEFINITIONS = frozenset({"$defs", "definitions"})
FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"}
)
_DRAFT_2020 = "https://json-schema.org/draft/2020-12/schema"


def normalise_schema(source: str) -> str:
    """Return an equivalent schema as JSON.

    Raise `GrammarError` for a broken cap, an unsupported keyword, or a recursion without end.
    """
    document = _parse(source)
    schema = _Normaliser(document).run()
    if not can_end(schema):
        raise GrammarError(
            "The JSON schema always needs itself again, so no answer could end.",
            hint="Make the recursive property optional, or allow null.",
        )
    return msgspec.json.encode(schema).decode()


def _parse(source: str) -> Any:
    data = source.encode("utf-8", "replace")
    if len(data) > MAX_SCHEMA_BYTES:
        raise GrammarError(f"The JSON schema has {len(data)} bytes, the most is {MAX_SCHEMA_BYTES}.")
    try:
        document = msgspec.json.decode(data)
    except RecursionError:
        raise GrammarError(
            f"The JSON schema is nested far more than {MAX_SCHEMA_DEPTH} levels deep."
        ) from None
    except msgspec.DecodeError as problem:
        raise GrammarError(f"The JSON schema is not valid JSON: {problem}.") from None
    if not isinstance(document, dict | bool):
        raise GrammarError("A JSON schema is an object or a boolean.")
    return document


class _Normaliser:
    """One walk through a document. Paths in errors are JSON pointers."""

    def __init__(self, document: Any) -> None:
        self._document = document
        self._n_nodes = 0
        self._definitions: dict[str, str] = {}
        self._joins = False
        self._patterns: set[str] = set()
        self._multiples: set[int | float] = set()
        self._is_2020 = isinstance(document, bool) or _is_2020(document.get("$schema", _DRAFT_2020))

    def run(self) -> dict[str, Any]:
        root = self.schema(self._document, "#", 0)
        definitions: dict[str, Any] = {}
        while len(definitions) < len(self._definitions):
            pointer, name = list(self._definitions.items())[len(definitions)]
            definitions[name] = self.schema(_at_pointer(self._document, pointer), pointer, 0)
        self._check_joined()
        root = root if isinstance(root, dict) else {"allOf": [root]}
        return {**root, "$defs": definitions} if definitions else root

    def schema(self, value: Any, path: str, depth: int) -> Any:
        self._count(path, depth)
        if isinstance(value, bool):
            return value
        if not isinstance(value, dict):
            raise GrammarError(f"The JSON schema has no schema at {_short(path)}, but a value.")
        normal: dict[str, Any] = {}
        for keyword, content in value.items():
            if keyword in _ANNOTATIONS or keyword in _DEFINITIONS or (keyword == "$id" and path == "#"):
                continue
            handler = _HANDLERS.get(keyword)
            if handler is None:
                raise _unsupported(keyword, path)
            normal[keyword] = handler(self, content, f"{path}/{keyword}", depth)
        _check_together(normal, path)
        self._note(normal)
        return normal

    def _note(self, schema: dict[str, Any]) -> None:
        """Remember what is expensive when schemas are joined."""
        joining = _JOINING & schema.keys()
        others = schema.keys() - joining - {"type"}
        self._joins |= len(joining) + bool(others) > 1 if joining else False
        self._joins |= len(schema.get("allOf", [])) > 1
        self._patterns |= {schema[keyword] for keyword in ("pattern", "format") if keyword in schema}
        self._multiples |= {schema["multipleOf"]} if "multipleOf" in schema else set()

    def _check_joined(self) -> None:
        """Any two schemas may meet at one value; then their automata are multiplied."""
        if not self._joins:
            return
        if len(self._patterns) > MAX_PATTERNS:
            raise GrammarError(
                f"The JSON schema joins schemas (allOf, or anyOf and $ref beside other keywords) and has "
                f"{len(self._patterns)} patterns and formats; then the most is {MAX_PATTERNS}."
            )
        if math.prod(map(_digits, self._multiples)) > MAX_MULTIPLE:
            raise GrammarError(
                "The JSON schema joins schemas (allOf, or anyOf and $ref beside other keywords); "
                f"then the product of all multipleOf may be at most {MAX_MULTIPLE}."
            )

    def _count(self, path: str, depth: int) -> None:
        self._n_nodes += 1
        if self._n_nodes > MAX_SCHEMA_NODES:
            raise GrammarError(f"The JSON schema has more than {MAX_SCHEMA_NODES} elements.")
        if depth > MAX_SCHEMA_DEPTH:
            raise GrammarError(
                f"The JSON schema is nested more than {MAX_SCHEMA_DEPTH} levels deep (at {_short(path)})."
            )

    # Keywords whose value is a schema, or several

    def schemas(self, value: Any, path: str, depth: int) -> list[Any]:
        if not isinstance(value, list) or not value:
            raise _wrong(path, "a list of at least one schema")
        return [self.schema(item, f"{path}/{index}", depth + 1) for index, item in enumerate(value)]

    def subschema(self, value: Any, path: str, depth: int) -> Any:
        if isinstance(value, list):
            raise GrammarError(
                f"{_short(path)} in the JSON schema must be one schema; tuples are prefixItems."
            )
        return self.schema(value, path, depth + 1)

    def prefix_items(self, value: Any, path: str, depth: int) -> list[Any]:
        if not self._is_2020:
            raise GrammarError("The keyword prefixItems in a JSON schema needs draft 2020-12.")
        return self.schemas(value, path, depth)

    def properties(self, value: Any, path: str, depth: int) -> dict[str, Any]:
        named = _dict(value, path, MAX_PROPERTIES)
        return {name: self.schema(item, f"{path}/{name}", depth + 1) for name, item in named.items()}

    def pattern_properties(self, value: Any, path: str, depth: int) -> dict[str, Any]:
        named = _dict(value, path, MAX_PATTERNS)
        return {
            _pattern(name, path): self.schema(item, f"{path}/{name}", depth + 1)
            for name, item in named.items()
        }

    def reference(self, value: Any, path: str, _depth: int) -> str:
        if not isinstance(value, str):
            raise _wrong(path, "a string")
        if value != "#" and not value.startswith("#/"):
            raise GrammarError(
                f"The JSON schema refers to {_short(value)!r}; only references inside it (#/…) are supported."
            )
        return "#/$defs/" + self._definitions.setdefault(value, str(len(self._definitions)))

    # Keywords whose value is data

    def constant(self, value: Any, path: str, depth: int) -> Any:
        self._count(path, depth)
        match value:
            case list():
                return [self.constant(item, path, depth + 1) for item in value]
            case dict():
                return {name: self.constant(item, path, depth + 1) for name, item in value.items()}
            case bool() | None | str():
                return value
            case _:
                return _number(value, path)

    def constants(self, value: Any, path: str, depth: int) -> list[Any]:
        if not isinstance(value, list) or not value:
            raise _wrong(path, "a list of at least one value")
        return [self.constant(item, path, depth + 1) for item in value]


# Values --------------------------------------------------------------------------------------------------


def _types(value: Any, path: str) -> Any:
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) and name in _TYPES for name in names):
        raise _wrong(path, "one or more of " + ", ".join(sorted(_TYPES)))
    return value


def _number(value: Any, path: str) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(path, "a number")
    if not -MAX_INTEGER <= value <= MAX_INTEGER:
        raise GrammarError(f"The number at {_short(path)} in the JSON schema is beyond ±{MAX_INTEGER}.")
    exponent = Decimal(repr(value)).normalize().as_tuple().exponent
    if not isinstance(exponent, int) or exponent < -MAX_DECIMALS:
        raise GrammarError(
            f"The number at {_short(path)} in the JSON schema has more than {MAX_DECIMALS} decimals."
        )
    return value


def _multiple(value: Any, path: str) -> int | float:
    number = _number(value, path)
    if number <= 0 or _digits(number) > MAX_MULTIPLE:
        raise GrammarError(
            f"{_short(path)} in the JSON schema is {number}; "
            f"its digits must be a number from 1 to {MAX_MULTIPLE}."
        )
    return number


def _digits(number: float) -> int:
    """Return 25 for 0.25: the states that counting its multiples takes."""
    return int("".join(map(str, Decimal(repr(number)).as_tuple().digits)))


def _count(value: Any, path: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _wrong(path, "a whole number from 0")
    if value > MAX_REPEAT:
        raise GrammarError(f"{_short(path)} in the JSON schema is {value}, the most is {MAX_REPEAT}.")
    return value


def _names(value: Any, path: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise _wrong(path, "a list of names")
    if len(value) > MAX_PROPERTIES:
        raise GrammarError(
            f"{_short(path)} in the JSON schema has {len(value)} names, the most is {MAX_PROPERTIES}."
        )
    return value


def _dict(value: Any, path: str, n_most: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(path, "an object")
    if len(value) > n_most:
        raise GrammarError(f"{_short(path)} in the JSON schema has {len(value)} names, the most is {n_most}.")
    return value


def _pattern(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise _wrong(path, "a regular expression")
    return "^(?:" + to_regex(parse_pattern(value, is_search=True)) + ")$"


def _format(value: Any, path: str) -> str:
    if value not in FORMATS:
        raise GrammarError(
            f"The format {_short(str(value))!r} in the JSON schema is not supported.",
            hint="Supported: " + ", ".join(sorted(FORMATS)) + ". A pattern can say the rest.",
        )
    return _string(value, path)


def _string(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise _wrong(path, "a string")
    return value


def _no_unique_items(value: Any, path: str) -> bool:
    if value is not False:
        raise _unsupported("uniqueItems", path)
    return False


def _check_together(schema: dict[str, Any], path: str) -> None:
    """Apply rules about several keywords of one schema, and give integers their bounds."""
    schema.pop("uniqueItems", None)
    # Keys that the schema does not name may repeat in an answer, and a repeated key counts once.
    if schema.get("minProperties", 0) > len(set(schema.get("required", []))) + 1:
        raise GrammarError(
            f"minProperties at {_short(path)} in the JSON schema is more than one above its required names, "
            "which cannot be guaranteed.",
        )
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    if "integer" in types and "number" not in types:
        if "exclusiveMinimum" not in schema:
            schema.setdefault("minimum", -MAX_INTEGER)
        if "exclusiveMaximum" not in schema:
            schema.setdefault("maximum", MAX_INTEGER)


# References, errors --------------------------------------------------------------------------------------


def _at_pointer(document: Any, pointer: str) -> Any:
    found = document
    for step in pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        try:
            found = found[int(name)] if isinstance(found, list) else found[name]
        except (KeyError, IndexError, ValueError, TypeError):
            raise GrammarError(
                f"The JSON schema refers to {_short(pointer)!r}, which it does not have."
            ) from None
    return found


def _is_2020(draft: Any) -> bool:
    return isinstance(draft, str) and draft.rstrip("#") == _DRAFT_2020


def _unsupported(keyword: str, path: str) -> GrammarError:
    return GrammarError(
        f"The keyword {_short(keyword)!r} in the JSON schema (at {_short(path)}) is not supported.",
        hint="It would be ignored, so that an answer might break the schema.",
    )


def _wrong(path: str, wanted: str) -> GrammarError:
    return GrammarError(f"{_short(path)} in the JSON schema must be {wanted}.")


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:79] + "…"  # noqa: PLR2004 - a line of a terminal


_Handler = Callable[[_Normaliser, Any, str, int], Any]


def _data(read: Callable[[Any, str], Any]) -> _Handler:
    return lambda _normaliser, value, path, _depth: read(value, path)


_HANDLERS: dict[str, _Handler] = {
    "type": _data(_types),
    "enum": _Normaliser.constants,
    "const": _Normaliser.constant,
    "$ref": _Normaliser.reference,
    "allOf": _Normaliser.schemas,
    "anyOf": _Normaliser.schemas,
    "oneOf": _Normaliser.schemas,
    "properties": _Normaliser.properties,
    "patternProperties": _Normaliser.pattern_properties,
    "additionalProperties": _Normaliser.subschema,
    "required": _data(_names),
    "minProperties": _data(_count),
    "maxProperties": _data(_count),
    "items": _Normaliser.subschema,
    "prefixItems": _Normaliser.prefix_items,
    "minItems": _data(_count),
    "maxItems": _data(_count),
    "uniqueItems": _data(_no_unique_items),
    "minLength": _data(_count),
    "maxLength": _data(_count),
    "pattern": _data(_pattern),
    "format": _data(_format),
    "minimum": _data(_number),
    "maximum": _data(_number),
    "exclusiveMinimum": _data(_number),
    "exclusiveMaximum": _data(_number),
    "multipleOf": _data(_multiple),
}

"""Tell whether an answer is right. Pure: knows no model and no file."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from typing import TYPE_CHECKING, assert_never

from edgeapp.presets.validity import is_valid

if TYPE_CHECKING:
    from edgeapp.presets.cases import Case

_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d{1,3})?")
_MAX_CHARS = 100_000
_MAX_INDEX_DIGITS = 6
_MISSING = object()


def is_right(case: Case, answer: str, *, schema: str = "") -> bool:
    """Grade `answer`; `schema` is the preset's, for the grader `valid`. An empty answer is never right."""
    answer = answer[:_MAX_CHARS]
    return bool(answer.strip()) and _grade(case, answer, schema)


def _grade(case: Case, answer: str, schema: str) -> bool:  # noqa: PLR0911 - one for each grader
    match case.grader:
        case "exact":
            return _folded(answer) == _folded(case.answer)
        case "contains":
            return _contains(case, _folded(answer))
        case "regex":
            return re.search(case.pattern, answer) is not None
        case "json":
            return _fields_are(case, answer)
        case "choice":
            return _is_choice(case, _folded(answer).strip(" .,:;!\"'`*"))
        case "number":
            return _is_number(case, answer)
        case "valid":
            return is_valid(answer, schema)
    assert_never(case.grader)


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _contains(case: Case, answer: str) -> bool:
    wanted = all(_folded(text) in answer for text in case.all)
    return wanted and not any(_folded(text) in answer for text in case.none)


def _is_choice(case: Case, answer: str) -> bool:
    """With `labels`, exactly one of them may occur in the answer; else the answer is the label alone."""
    label = _folded(case.label)
    if not case.labels:
        return answer == label
    names = map(_folded, case.labels)
    return {name for name in names if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", answer)} == {label}


def _is_number(case: Case, answer: str) -> bool:
    numbers = _NUMBER.findall(answer.replace(",", ""))
    return bool(numbers) and abs(float(numbers[-1]) - case.value) <= case.tolerance + 1e-9


def _fields_are(case: Case, answer: str) -> bool:
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return False
    return all(_same(_at(value, path), expected) for path, expected in case.fields.items())


def _at(value: object, path: str) -> object:
    for part in path.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and (index := _index(part)) < len(value):
            value = value[index]
        else:
            return _MISSING
    return value


def _index(part: str) -> int:
    is_index = part.isascii() and part.isdecimal() and len(part) <= _MAX_INDEX_DIGITS
    return int(part) if is_index else 10**_MAX_INDEX_DIGITS


def _same(found: object, expected: object) -> bool:
    if isinstance(found, str) and isinstance(expected, str):
        return _folded(found) == _folded(expected)
    if isinstance(found, bool) or isinstance(expected, bool):
        return found is expected
    if isinstance(found, (int, float)) and isinstance(expected, (int, float)):
        return math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-9)
    return found is None and expected is None

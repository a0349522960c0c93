from __future__ import annotations

from edgeapp import errors
from edgeapp.errors import EdgeappError, EngineError, from_code


def _all_kinds(kind: type[EdgeappError] = EdgeappError) -> list[type[EdgeappError]]:
    return [kind, *(found for sub in kind.__subclasses__() for found in _all_kinds(sub))]


def test_every_error_has_its_own_code() -> None:
    codes = [kind.code for kind in _all_kinds()]
    assert len(set(codes)) == len(codes)


def test_the_tree_in_the_docstring_names_every_error() -> None:
    assert errors.__doc__ is not None
    assert [k.__name__ for k in _all_kinds() if k.__name__ not in errors.__doc__] == []


def test_an_error_survives_the_way_through_a_worker() -> None:
    for kind in _all_kinds():
        rebuilt = from_code(kind.code, "sentence", "remedy")
        assert (type(rebuilt), rebuilt.message, rebuilt.hint) == (kind, "sentence", "remedy")


def test_an_unknown_code_is_an_engine_error() -> None:
    assert type(from_code("from the future", "m", "h")) is EngineError


def test_usage_errors_exit_with_2_and_failures_with_1() -> None:
    for kind in _all_kinds():
        assert kind.exit_code == (2 if issubclass(kind, errors.UsageError) else 1)

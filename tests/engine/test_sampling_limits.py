"""Which sampling parameters are refused, and that the sentence names the field."""

from __future__ import annotations

from typing import Any

import pytest

from edgeapp.engine.sampling_limits import check_sampling
from edgeapp.errors import UsageError
from edgeapp.protocol import LogitBias, Sampling

NAN, INF = float("nan"), float("inf")
NUMBERS = tuple(
    name
    for name, default in zip(Sampling.__struct_fields__, Sampling.__struct_defaults__, strict=True)
    if isinstance(default, float)
)


def refusal(**values: Any) -> str:
    with pytest.raises(UsageError) as refused:
        check_sampling(Sampling(**values), n_vocab=100)
    return refused.value.message


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_what_is_not_a_number_is_refused(name: str, value: float) -> None:
    assert refusal(**{name: value}).startswith(f"{name} is {value:g};")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temp", -0.1),
        ("temp", 101),
        ("dynatemp_exponent", -1),
        ("top_k", 2**31),
        ("top_p", -0.1),
        ("min_p", 1.1),
        ("typical_p", 2),
        ("xtc_probability", -1),
        ("xtc_threshold", 1.5),
        ("repeat_penalty", 0),
        ("repeat_penalty", -1),
        ("penalty_last_n", -2),
        ("penalty_last_n", 2**31),
        ("dry_multiplier", -1),
        ("dry_base", 0.9),
        ("dry_allowed_length", -1),
        ("dry_penalty_last_n", 2**63),
        ("mirostat", 3),
        ("mirostat_eta", -1),
        ("seed", -1),
        ("seed", 2**32),
    ],
)
def test_what_cannot_be_meant_is_refused(name: str, value: float) -> None:
    assert refusal(**{name: value}).startswith(f"{name} is ")


@pytest.mark.parametrize("token", [-1, 100, 2**40])
def test_a_bias_of_no_token_is_refused(token: int) -> None:
    assert f"token {token};" in refusal(logit_bias=(LogitBias(token=token, bias=1),))


@pytest.mark.parametrize("bias", [NAN, INF, 101])
def test_a_bias_without_measure_is_refused(bias: float) -> None:
    assert "logit_bias of token 5 is" in refusal(logit_bias=(LogitBias(token=5, bias=bias),))


@pytest.mark.parametrize("breaker", ["", "x" * 41, "é" * 21, "a\0b"])
def test_a_breaker_that_is_empty_or_long_is_refused(breaker: str) -> None:
    assert "dry_sequence_breakers" in refusal(dry_sequence_breakers=("\n", breaker))


def test_too_many_breakers_are_refused() -> None:
    assert "17 entries" in refusal(dry_sequence_breakers=tuple("abcdefghijklmnopq"))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"seed": 2**32 - 1, "temp": 0, "top_k": -1, "penalty_last_n": -1, "dry_penalty_last_n": -1},
        {"dry_sequence_breakers": (), "mirostat": 2, "frequency_penalty": -2, "presence_penalty": 2},
        {"dry_sequence_breakers": ("é" * 20, "\ud800"), "logit_bias": (LogitBias(token=99, bias=-INF),)},
    ],
)
def test_what_can_be_meant_is_not_refused(values: dict[str, Any]) -> None:
    check_sampling(Sampling(**values), n_vocab=100)

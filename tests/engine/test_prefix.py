"""Comparing what is cached with what is asked for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgeapp.engine.prefix import common_length, rest_of

_tokens = st.lists(st.integers(min_value=0, max_value=3), max_size=40)


@given(_tokens, _tokens)
def test_common_is_the_longest_shared_beginning(known: list[int], wanted: list[int]) -> None:
    shared = common_length(known, wanted)
    assert known[:shared] == wanted[:shared]
    assert shared in (len(known), len(wanted)) or known[shared] != wanted[shared]


@given(_tokens, st.integers(0, 40), _tokens)
def test_a_changed_tail_is_found_wherever_it_begins(tokens: list[int], at: int, tail: list[int]) -> None:
    at = min(at, len(tokens))
    assert common_length(tokens, [*tokens[:at], 9, *tail]) == at


def test_the_rest_of_a_prompt_is_what_follows_the_known_text() -> None:
    assert rest_of("known 👩 and new".encode(), "known 👩".encode()) == " and new"
    assert rest_of(b"unknown", b"known") is None
    assert rest_of(b"anything", b"") is None


def test_a_prefix_that_ends_inside_a_character_has_no_rest() -> None:
    assert rest_of("é".encode(), "é".encode()[:1]) is None

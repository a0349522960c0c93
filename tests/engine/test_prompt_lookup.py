"""A draft is what followed where the end of the text occurred before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgeapp.engine.prompt_lookup import MAX_MATCH, RESUMED, PromptLookup

few_tokens = st.lists(st.integers(0, 4), max_size=80)


def lookup(*texts: list[int]) -> PromptLookup:
    made = PromptLookup()
    for tokens in texts:
        made.extend(tokens)
    return made


def goes_on(draft: list[int], tokens: list[int], at: int) -> bool:
    """Tell whether `draft` is what stands at index `at` of `tokens` and then of the draft itself."""
    text = [*tokens, *draft]
    return all(text[at + index] == token for index, token in enumerate(draft))


@given(tokens=few_tokens, limit=st.integers(-1, 20))
def test_a_draft_goes_on_like_an_earlier_occurrence_of_the_end(tokens: list[int], limit: int) -> None:
    found = lookup(tokens)
    draft, n_matched = found.draft(limit), found.n_matched()
    assert len(draft) == (max(limit, 0) if n_matched else 0)
    if n_matched:
        end = tokens[-n_matched:]
        places = [at for at in range(n_matched, len(tokens)) if tokens[at - n_matched : at] == end]
        assert any(goes_on(draft, tokens, at) for at in places)


@given(tokens=few_tokens)
def test_no_longer_match_is_overlooked_in_a_short_text(tokens: list[int]) -> None:
    def length_at(at: int) -> int:
        return next((n for n in range(at) if tokens[at - 1 - n] != tokens[-1 - n]), at)

    longest = max((length_at(at) for at in range(1, len(tokens))), default=0)
    n_matched = lookup(tokens).n_matched()
    assert n_matched <= longest
    if longest >= 2 and len(tokens) <= MAX_MATCH:
        assert n_matched == longest


@given(tokens=few_tokens, cut=st.integers(0, 80))
def test_it_does_not_matter_in_how_many_pieces_the_tokens_come(tokens: list[int], cut: int) -> None:
    whole, pieces = lookup(tokens), lookup(tokens[:cut], tokens[cut:])
    assert (whole.n_matched(), whole.draft(9)) == (pieces.n_matched(), pieces.draft(9))


def test_what_repeats_is_drafted_for_ever() -> None:
    assert lookup([7, 1, 2, 3, 1, 2, 3, 1, 2]).draft(7) == [3, 1, 2, 3, 1, 2, 3]


def test_the_newest_of_equally_long_matches_wins() -> None:
    assert lookup([1, 2, 8, 0, 1, 2, 9, 5, 1, 2]).draft(1) == [9]


def test_one_token_that_comes_back_is_no_match() -> None:
    assert lookup([1, 2, 3, 1]).n_matched() == 0


def test_a_longer_match_beats_a_newer_one() -> None:
    assert lookup([3, 1, 2, 8, 0, 1, 2, 9, 3, 1, 2]).draft(1) == [8]


def test_a_copy_goes_on_behind_a_token_that_was_changed() -> None:
    original = list(range(10, 30))
    found = lookup(original, original[:6])
    assert found.n_matched() == 6
    found.extend([99])
    assert found.n_matched() == RESUMED
    assert found.draft(3) == original[7:10]


def test_an_old_match_is_found_again_among_many_new_ones() -> None:
    """Only so many occurrences are looked at, but a match that is being followed stays known."""
    original = [1, 2, *range(100, 140)]
    many = [token for n in range(200) for token in (1, 2, 200 + n)]
    found = lookup(original, many)
    for token in original[2:6]:
        found.extend([token])
    assert found.draft(2) == original[6:8]

"""Compare what is cached with what is asked for. Pure: knows tokens and bytes, no llama.cpp."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def common_length(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """Return how many leading tokens are the same. Both must be of the same sequence type."""
    low, high = 0, min(len(ours), len(theirs))
    if ours[:high] == theirs[:high]:
        return high
    while low + 1 < high:  # the first `low` are equal, the first `high` are not
        middle = (low + high) // 2
        if ours[low:middle] == theirs[low:middle]:
            low = middle
        else:
            high = middle
    return low if ours[low : low + 1] != theirs[low : low + 1] else low + 1


def rest_of(prompt: bytes, known: bytes) -> str | None:
    """Return what follows `known` in `prompt`; None when the prompt does not begin with it.

    A token may end in the middle of a character: then the rest is no text either.
    """
    if not known or not prompt.startswith(known):
        return None
    try:
        return prompt[len(known) :].decode()
    except UnicodeDecodeError:
        return None

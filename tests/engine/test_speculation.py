"""Drafts change how fast an answer comes, never which one.

The dense demo model computes the same bits however many tokens a batch has, so texts can be compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from edgeapp.errors import UsageError
from edgeapp.protocol import Drafting, Generate, Sampling
from tests.runtime.engines import GREEDY, answer, ask, real_engine
from tests.tiny_moe import write_tiny_moe

if TYPE_CHECKING:
    from pathlib import Path

LIST = "red ship, green harbour, blue window, white stone, " * 4
"""Continued as it is, the model goes on repeating it."""
OFF = Drafting(mode="off")


def go_on(max_tokens: int, **options: Any) -> Generate:
    return Generate(prompt=LIST, max_tokens=max_tokens, ignore_eos=True, **({"sampling": GREEDY} | options))


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temp=0.7, seed=4)])
async def test_an_answer_is_the_same_with_and_without_drafts(demo_model: Path, sampling: Sampling) -> None:
    async with real_engine(demo_model, n_ctx=1024) as client:
        drafted, end = await answer(client, go_on(90, sampling=sampling))
        plain, plain_end = await answer(client, go_on(90, sampling=sampling, drafting=OFF))
    assert drafted == plain
    assert end.usage.completion_tokens == plain_end.usage.completion_tokens == 90
    assert end.timings.draft_accepted > 5
    assert plain_end.timings.draft_tokens == 0


async def test_a_turn_behind_a_drafted_answer_finds_the_right_keys_and_values(demo_model: Path) -> None:
    async with real_engine(demo_model, n_ctx=1024) as client:
        first, _ = await answer(client, ask(LIST, max_tokens=60, ignore_eos=True))
        warm, end = await answer(client, ask(LIST, first, "And backwards?", max_tokens=20))
    async with real_engine(demo_model, n_ctx=1024) as client:
        await answer(client, ask(LIST, max_tokens=60, ignore_eos=True, drafting=OFF))
        plain, _ = await answer(client, ask(LIST, first, "And backwards?", max_tokens=20, drafting=OFF))
    assert end.usage.cached_tokens > 60
    assert warm == plain


async def test_a_stop_string_ends_an_answer_in_the_middle_of_a_draft(demo_model: Path) -> None:
    async with real_engine(demo_model, n_ctx=1024) as client:
        whole, end = await answer(client, go_on(60))
        assert end.timings.draft_accepted > 5
        stop = whole[len(whole) // 2 :][:12]
        text, _ = await answer(client, go_on(60, stop=(stop,)))
    assert text == whole[: whole.index(stop)]


async def test_max_tokens_is_kept_with_drafts(demo_model: Path) -> None:
    async with real_engine(demo_model, n_ctx=1024) as client:
        for n_tokens in (1, 2, 23):
            _, end = await answer(client, go_on(n_tokens))
            assert end.usage.completion_tokens == n_tokens


async def test_a_draft_model_changes_no_answer(demo_model: Path) -> None:
    """The model drafts for itself: all it guesses is right."""
    question = ask("Write a poem about rain", max_tokens=40, ignore_eos=True)
    plainly = ask("Write a poem about rain", max_tokens=40, ignore_eos=True, drafting=OFF)
    async with real_engine(demo_model, draft_path=str(demo_model)) as client:
        drafted, end = await answer(client, question)
    async with real_engine(demo_model) as client:
        plain, _ = await answer(client, plainly)
    assert drafted == plain
    assert end.timings.draft_accepted == end.timings.draft_tokens > 0


async def test_a_draft_model_with_another_vocabulary_is_refused(demo_model: Path, tmp_path: Path) -> None:
    other = write_tiny_moe(tmp_path / "other.gguf")
    async with real_engine(demo_model, draft_path=str(other)) as client:
        with pytest.raises(UsageError, match="vocabular"):
            await client.load()

"""A second model follows each sequence and guesses what it would say itself."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from edgeapp.engine import bindings
from edgeapp.engine.bindings import Batch, ContextHandle, ContextOptions, ModelOptions
from edgeapp.engine.draft_model import N_CATCH_UP, DraftModel, load_draft_model
from edgeapp.engine.drafting import Drafter
from edgeapp.engine.model import Vocab
from edgeapp.errors import UnsupportedModel, UsageError
from tests.tiny_mamba import write_tiny_mamba
from tests.tiny_moe import write_tiny_moe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROMPT = [1, 40, 300, 7, 512, 88, 40, 301]


@contextmanager
def target(path: Path) -> Iterator[tuple[Vocab, ContextHandle]]:
    bindings.start()
    options = ModelOptions()
    handle = bindings.load_model(str(path), options, lambda _fraction: True)
    context_options = ContextOptions(n_ctx=512, n_batch=512, n_ubatch=512, n_threads=1)
    context = bindings.new_context(handle, context_options, abort=None)
    try:
        yield Vocab(bindings.get_vocab(handle)), context
    finally:
        bindings.free_context(context)
        bindings.free_model(handle)


@contextmanager
def drafting_for(path: Path, draft: Path, *, n_kv: int = 512) -> Iterator[DraftModel]:
    with (
        target(path) as (vocab, _),
        load_draft_model(str(draft), vocab, n_kv=n_kv, n_sequences=2, n_threads=1) as model,
    ):
        yield model


def greedy(path: Path, prompt: list[int], count: int) -> list[int]:
    """Return what the model says, one token at a time."""
    with target(path) as (_, context):
        batch, tokens = Batch(512), list(prompt)
        chain = bindings.sampler_chain([bindings.sampler_greedy()])
        n_past = 0
        for _ in range(count):
            batch.clear()
            batch.add(tokens[n_past:], sequence=0, n_past=n_past, n_logits=1)
            assert batch.decode(context) == "ok"
            n_past = len(tokens)
            tokens.append(bindings.sample(chain, context))
        bindings.free_sampler(chain)
    return tokens[len(prompt) :]


def test_it_guesses_what_it_would_say_itself(tiny_moe: Path) -> None:
    with drafting_for(tiny_moe, tiny_moe) as model:
        source = model.source(0)
        source.start(PROMPT)
        guessed = source.draft(6)
        assert source.draft(6) == guessed
        source.extend(guessed[:2])
        assert source.draft(4) == guessed[2:]
    assert guessed == greedy(tiny_moe, PROMPT, 6)


def test_it_forgets_guesses_that_were_not_taken(tiny_moe: Path) -> None:
    with drafting_for(tiny_moe, tiny_moe) as model:
        source = model.source(0)
        source.start(PROMPT)
        rejected = source.draft(6)
        other = (rejected[1] + 1) % model.n_vocab
        source.extend([rejected[0], other])
        guessed = source.draft(4)
    assert guessed == greedy(tiny_moe, [*PROMPT, rejected[0], other], 4)


def test_two_sequences_do_not_disturb_each_other(tiny_moe: Path) -> None:
    other = [900, 17, 17, 230]
    with drafting_for(tiny_moe, tiny_moe) as model:
        first, second = model.source(0), model.source(1)
        first.start(PROMPT)
        second.start(other)
        ours, theirs = first.draft(2), second.draft(2)
        first.extend(ours)
        second.extend(theirs)
        ours, theirs = ours + first.draft(3), theirs + second.draft(3)
    assert (ours, theirs) == (greedy(tiny_moe, PROMPT, 5), greedy(tiny_moe, other, 5))


def test_a_long_prompt_is_taken_in_slice_by_slice(tiny_moe: Path) -> None:
    prompt = [7 + 13 * n % 900 for n in range(N_CATCH_UP + 44)]
    with drafting_for(tiny_moe, tiny_moe) as model:
        source = model.source(0)
        source.start(prompt)
        assert source.draft(3) == []
        guessed = source.draft(3)
    assert guessed == greedy(tiny_moe, prompt, 3)


def test_a_full_context_costs_a_draft_and_no_more(tiny_moe: Path) -> None:
    prompt = [7 + 13 * n % 900 for n in range(200)]
    with drafting_for(tiny_moe, tiny_moe, n_kv=256) as model:
        first, second = model.source(0), model.source(1)
        first.start(prompt)
        assert first.draft(2)
        second.start(prompt[::-1])
        assert second.draft(2) == []
        guessed = second.draft(2)
    assert guessed == greedy(tiny_moe, prompt[::-1], 2)


def test_the_drafter_takes_all_of_a_model_that_knows_the_answer(tiny_moe: Path) -> None:
    answer = greedy(tiny_moe, PROMPT, 60)
    with drafting_for(tiny_moe, tiny_moe) as model:
        drafter = Drafter(model.source(0), max_tokens=8)
        drafter.start(PROMPT)
        done = 0
        while done < len(answer):
            draft = drafter.draft(len(answer) - done - 1)
            assert draft == answer[done : done + len(draft)]
            drafter.report(len(draft), len(draft))
            drafter.accept(answer[done : done + len(draft) + 1])
            done += len(draft) + 1
    assert drafter.n_accepted > 30


def test_nothing_is_drafted_behind_a_token_that_the_draft_model_lacks(tiny_moe: Path, tmp_path: Path) -> None:
    smaller = write_tiny_moe(tmp_path / "smaller.gguf", n_vocab=960)
    with drafting_for(tiny_moe, smaller) as model:
        assert model.n_vocab == 960
        source = model.source(0)
        source.start(PROMPT)
        assert source.draft(2)
        source.extend([1000])
        assert source.draft(2) == []


def test_another_vocabulary_is_refused_with_both_sizes(tiny_moe: Path, tmp_path: Path) -> None:
    smaller = write_tiny_moe(tmp_path / "smaller.gguf", n_vocab=700)
    with pytest.raises(UsageError, match=r"it has 700 tokens, the model 1024") as refused:
        drafting_for(tiny_moe, smaller).__enter__()
    assert "same family" in refused.value.hint


def test_a_vocabulary_with_another_token_is_refused(tiny_moe: Path, tmp_path: Path) -> None:
    data = tiny_moe.read_bytes()
    theirs = data.replace(b"\x05\0\0\0\0\0\0\0\xc4\xa0the", b"\x05\0\0\0\0\0\0\0\xc4\xa0thX", 1)
    assert theirs != data
    (tmp_path / "other.gguf").write_bytes(theirs)
    with pytest.raises(UsageError, match=r"token \d+ is another one"):
        drafting_for(tiny_moe, tmp_path / "other.gguf").__enter__()


def test_a_model_that_cannot_forget_a_token_is_refused(tiny_moe: Path, tmp_path: Path) -> None:
    recurrent = write_tiny_mamba(tmp_path / "mamba.gguf")
    with pytest.raises(UnsupportedModel, match="cannot forget"):
        drafting_for(tiny_moe, recurrent).__enter__()

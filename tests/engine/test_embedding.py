"""Embeddings: packed texts equal single ones, long texts equal short ones, a pooling does what it says."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pytest
from gguf import GGUFReader
from hypothesis import example, given
from hypothesis import strategies as st

from edgeapp.engine import bindings, embedding, text_requests
from edgeapp.engine.embedding import Embedder, pack
from edgeapp.engine.model import Vocab
from edgeapp.errors import ContextOverflow, UsageError
from edgeapp.protocol import Embed
from tests.engine.raw_model import RawModel, raw_model
from tests.tiny_mamba import write_tiny_mamba

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from edgeapp.protocol import Pooling

T = TypeVar("T")
N_CTX = 256
N_EMBD = 64
SHORT_AND_LONG = (3, 100, 1, 40, 7, 200, 33, 5)


def random_texts(*lengths: int) -> list[list[int]]:
    random = np.random.default_rng(3)
    return [[int(token) for token in random.integers(20, 1000, length)] for length in lengths]


@contextmanager
def embedder_for(path: Path, *, n_ctx: int = N_CTX) -> Iterator[tuple[RawModel, Embedder]]:
    with raw_model(path) as raw:
        embedder = Embedder(raw.handle, n_ctx=n_ctx, n_vocab=raw.n_vocab, n_threads=1, kv_type="f32")
        try:
            yield raw, embedder
        finally:
            embedder.free()


def finished(steps: Generator[None, None, T]) -> T:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


def vectors(
    embedder: Embedder, texts: Sequence[Sequence[int]], *, pooling: Pooling = "mean", normalize: bool = False
) -> NDArray[np.float64]:
    return np.array(finished(embedder.embed(texts, pooling=pooling, normalize=normalize)))


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("architecture", ["attention", "recurrent"])
def test_texts_embedded_together_have_the_vectors_of_single_ones(
    tiny_moe: Path, tmp_path: Path, pooling: Pooling, architecture: str
) -> None:
    model = tiny_moe if architecture == "attention" else write_tiny_mamba(tmp_path / "mamba.gguf")
    texts = random_texts(*SHORT_AND_LONG)
    with embedder_for(model) as (_, embedder):
        together = vectors(embedder, texts, pooling=pooling)
        single = [vectors(embedder, [text], pooling=pooling)[0] for text in texts]
    np.testing.assert_allclose(together, single, atol=2e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_a_text_longer_than_a_batch_has_the_vector_of_one_that_fits(
    tiny_moe: Path, monkeypatch: pytest.MonkeyPatch, pooling: Pooling
) -> None:
    texts = random_texts(*SHORT_AND_LONG)
    with embedder_for(tiny_moe) as (_, embedder):
        expected = vectors(embedder, texts, pooling=pooling)
    monkeypatch.setattr(embedding, "_MAX_BATCH", 32)
    with embedder_for(tiny_moe) as (_, embedder):
        np.testing.assert_allclose(vectors(embedder, texts, pooling=pooling), expected, atol=2e-5)


def test_the_last_vector_is_the_hidden_state_that_the_logits_come_from(tiny_moe: Path) -> None:
    weights = next(t for t in GGUFReader(tiny_moe).tensors if t.name == "token_embd.weight")
    output = np.array(weights.data)  # the output layer shares it
    (text,) = random_texts(50)
    with embedder_for(tiny_moe) as (raw, embedder):
        last = vectors(embedder, [text], pooling="last")[0]
        logits = raw.logits(text)[-1]
    assert output.shape == (1024, N_EMBD)
    np.testing.assert_allclose(output @ last, logits, atol=2e-4)


def test_the_mean_is_that_of_all_tokens_and_cls_the_first(tiny_moe: Path) -> None:
    (text,) = random_texts(12)
    starts = [text[:n] for n in range(1, len(text) + 1)]
    with embedder_for(tiny_moe) as (_, embedder):
        lasts = vectors(embedder, starts, pooling="last")
        mean = vectors(embedder, [text], pooling="mean")[0]
        cls = vectors(embedder, [text], pooling="cls")[0]
        auto = vectors(embedder, [text], pooling="auto")[0]
    np.testing.assert_allclose(mean, lasts.mean(axis=0), atol=2e-5)
    np.testing.assert_allclose(cls, lasts[0], atol=2e-5)
    np.testing.assert_array_equal(auto, mean)
    assert np.abs(mean - lasts[-1]).max() > 0.1


def test_a_normalised_vector_has_length_one_and_the_same_direction(tiny_moe: Path) -> None:
    texts = random_texts(3, 20)
    with embedder_for(tiny_moe) as (_, embedder):
        raw, unit = vectors(embedder, texts), vectors(embedder, texts, normalize=True)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(unit, raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-6)


def test_it_stops_between_batches_and_can_be_left_there(
    tiny_moe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "_MAX_BATCH", 32)
    texts = random_texts(100, 30, 30)
    with embedder_for(tiny_moe) as (_, embedder):
        steps = embedder.embed(texts, pooling="mean", normalize=False)
        n_steps = sum(1 for _ in steps)
        left = embedder.embed(texts, pooling="mean", normalize=False)
        next(left)
        next(left)
        left.close()
        after = vectors(embedder, [texts[1]])
        fresh = vectors(embedder, texts)[1]
    assert n_steps == 4 + 1 + 1  # the long text in pieces, then one of the others each
    np.testing.assert_allclose(after[0], fresh, atol=2e-5)


def test_the_chats_context_is_not_touched(tiny_moe: Path) -> None:
    (text,) = random_texts(30)
    with embedder_for(tiny_moe) as (raw, embedder):
        expected = raw.logits(text)
        vectors(embedder, random_texts(50))
        assert bindings.kv_length(raw.context, 0) == len(text)
        np.testing.assert_array_equal(raw.logits(text), expected)


def test_a_freed_embedder_embeds_again(tiny_moe: Path) -> None:
    texts = random_texts(9)
    with embedder_for(tiny_moe) as (_, embedder):
        before = vectors(embedder, texts)
        embedder.free()
        np.testing.assert_array_equal(vectors(embedder, texts), before)


def test_a_longer_text_later_gets_a_larger_context(tiny_moe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "_CTX_STEP", 64)
    monkeypatch.setattr(embedding, "_MAX_BATCH", 64)
    texts = random_texts(60, 500)  # llama.cpp makes no context of less than 256
    with embedder_for(tiny_moe, n_ctx=512) as (_, embedder):
        short = vectors(embedder, texts[:1])
        both = vectors(embedder, texts)
    np.testing.assert_allclose(both[0], short[0], atol=2e-5)


# What is refused -------------------------------------------------------------------------------------------


def test_a_text_that_is_too_long_is_refused_with_both_numbers(tiny_moe: Path) -> None:
    texts = random_texts(5, N_CTX + 1)
    with embedder_for(tiny_moe) as (_, embedder):
        with pytest.raises(ContextOverflow, match=r"Text 2 .* 257 tokens, the context holds 256") as problem:
            vectors(embedder, texts)
        assert (problem.value.n_prompt, problem.value.n_ctx) == (257, 256)
        assert vectors(embedder, random_texts(N_CTX)).shape == (1, N_EMBD)


def test_more_texts_than_one_answer_holds_are_refused(
    tiny_moe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "MAX_NUMBERS", 3 * N_EMBD)
    with embedder_for(tiny_moe) as (_, embedder):
        assert len(vectors(embedder, random_texts(2, 2, 2))) == 3
        with pytest.raises(UsageError, match="4 texts to embed, 3 fit"):
            vectors(embedder, random_texts(2, 2, 2, 2))


@pytest.mark.parametrize(("texts", "message"), [((), "no text"), (("a", ""), "Text 2 to embed is empty")])
def test_no_text_and_an_empty_text_are_refused(tiny_moe: Path, texts: tuple[str, ...], message: str) -> None:
    with embedder_for(tiny_moe) as (raw, embedder):
        vocab = Vocab(bindings.get_vocab(raw.handle))
        with pytest.raises(UsageError, match=message):
            finished(text_requests.embed(vocab, embedder, Embed(texts=texts)))
        with pytest.raises(UsageError, match="Text 1 to embed is empty"):
            vectors(embedder, [[]])


# Packing ---------------------------------------------------------------------------------------------------


@given(
    lengths=st.lists(st.integers(1, 80), max_size=40),
    n_batch=st.integers(1, 64),
    n_sequences=st.integers(1, 16),
)
@example(lengths=[1] * 9, n_batch=8, n_sequences=4)
def test_every_token_is_packed_once_in_order_within_the_limits(
    lengths: list[int], n_batch: int, n_sequences: int
) -> None:
    seen: list[tuple[int, int]] = []
    for pieces in pack(lengths, n_batch=n_batch, n_sequences=n_sequences):
        assert 0 < sum(piece.end - piece.start for piece in pieces) <= n_batch
        assert 0 < len(pieces) <= n_sequences
        # A text that goes on in the next batch has this one to itself: the KV cache holds it alone.
        assert len(pieces) == 1 or all(piece.end == lengths[piece.text] for piece in pieces)
        assert len(pieces) == 1 or all(piece.start == 0 for piece in pieces)
        seen += [(piece.text, at) for piece in pieces for at in range(piece.start, piece.end)]
    assert seen == [(text, at) for text, length in enumerate(lengths) for at in range(length)]

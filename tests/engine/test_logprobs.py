"""Log probabilities against plain Python, and what they are made of."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeapp.engine.constraint import ConstraintFactory
from edgeapp.engine.logprobs import MIN_LOGPROB, token_logprobs
from edgeapp.engine.sampler import Sampler
from edgeapp.errors import EngineError
from edgeapp.protocol import Grammar, Sampling, TokenLogprob
from tests.engine.logit_rows import N_CTX, LogitRow, logit_row

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def row(tiny_moe: Path) -> Iterator[LogitRow]:
    with logit_row(tiny_moe) as found:
        yield found


def logprobs(row: LogitRow, token: int, *, n_top: int) -> TokenLogprob:
    return token_logprobs(row.context, row.row, token, n_top=n_top, vocab=row.vocab)


@given(
    seed=st.integers(0, 1000),
    spread=st.sampled_from([0.01, 1, 10, 100]),
    shift=st.sampled_from([0, -1e4, 1e4]),
    token=st.integers(0, 1023),
    n_top=st.integers(0, 30),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_they_are_the_log_of_the_softmax(
    row: LogitRow, seed: int, spread: float, shift: float, token: int, n_top: int
) -> None:
    row.write(np.random.default_rng(seed).normal(scale=spread, size=row.n_vocab) + shift)
    logits = [float(value) for value in row.values()]
    log_total = max(logits) + math.log(math.fsum(math.exp(value - max(logits)) for value in logits))
    found = logprobs(row, token, n_top=n_top)
    assert found.token == token
    assert found.logprob == pytest.approx(logits[token] - log_total, abs=1e-4)
    best = sorted(range(row.n_vocab), key=lambda index: (-logits[index], index))[:n_top]
    assert [entry.token for entry in found.top] == best
    for entry in found.top:
        assert entry.logprob == pytest.approx(logits[entry.token] - log_total, abs=1e-4)
        assert entry.data == row.vocab.piece(entry.token)
        assert entry.top == ()


def test_equal_tokens_come_in_the_order_of_the_vocabulary(row: LogitRow) -> None:
    row.write(np.zeros(row.n_vocab))
    found = logprobs(row, 3, n_top=20)
    assert [entry.token for entry in found.top] == list(range(20))
    assert found.logprob == pytest.approx(-math.log(row.n_vocab))


def test_more_rivals_than_the_vocabulary_has_are_all_of_it(row: LogitRow) -> None:
    assert len(logprobs(row, 3, n_top=10**9).top) == row.n_vocab


def test_part_of_a_character_is_given_as_bytes(row: LogitRow) -> None:
    tokens = row.vocab.tokenize("\U0001f600")
    assert len(tokens) > 1
    assert b"".join(logprobs(row, token, n_top=0).data for token in tokens) == "\U0001f600".encode()


def test_impossible_tokens_have_a_number_that_survives_json(row: LogitRow) -> None:
    logits = np.zeros(row.n_vocab)
    logits[5] = -np.inf
    row.write(logits)
    found = logprobs(row, 5, n_top=2)
    assert found.logprob == MIN_LOGPROB
    assert msgspec.json.decode(msgspec.json.encode(found), type=TokenLogprob) == found


def test_samplers_and_constraints_do_not_change_them(row: LogitRow) -> None:
    row.write(np.random.default_rng(0).normal(size=row.n_vocab))
    token = row.vocab.tokenize("y")[0]
    before = logprobs(row, token, n_top=5)
    chosen = Sampling(temp=0, repeat_penalty=2, presence_penalty=5, top_k=3)
    sampler = Sampler(
        chosen,
        vocab=row.handle,
        n_vocab=row.n_vocab,
        n_ctx_train=N_CTX,
        prompt=range(100),
        banned=(token,),
        keep_logits=True,
    )
    sampler.constraint = ConstraintFactory(row.vocab).compile(Grammar(kind="gbnf", source='root ::= "y"'))
    assert sampler.choose(row.context, row.row) == token
    sampler.free()
    assert logprobs(row, token, n_top=5) == before


def test_a_row_without_logits_is_an_error(row: LogitRow) -> None:
    with pytest.raises(EngineError, match="no logits at index 5"):
        token_logprobs(row.context, 5, 0, n_top=0, vocab=row.vocab)

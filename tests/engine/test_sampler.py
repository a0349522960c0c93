"""The sampler chain against its second implementation, and what every parameter promises."""

from __future__ import annotations

import ctypes
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from edgeapp.engine.bindings.library import c
from edgeapp.engine.constraint import ConstraintFactory
from edgeapp.engine.sampler import Sampler
from edgeapp.errors import UsageError
from edgeapp.protocol import Grammar, LogitBias, Sampling
from tests import tiny_moe
from tests.engine import reference_sampling as reference
from tests.engine.logit_rows import N_CTX, LogitRow, logit_row

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gguf import GGUFWriter
    from numpy.typing import NDArray

    from edgeapp.engine.constraint import Constraint

PLAIN = Sampling(temp=1, top_k=0, top_p=1, min_p=0, seed=1)
"""Draws from the model's own distribution."""
N_VOCAB = 1024


@pytest.fixture(scope="module")
def row(tiny_moe: Path) -> Iterator[LogitRow]:
    with logit_row(tiny_moe) as found:
        yield found


def change(settings: Sampling, **values: Any) -> Sampling:
    return Sampling(**{name: getattr(settings, name) for name in settings.__struct_fields__} | values)


@contextmanager
def sampling(row: LogitRow, settings: Sampling, **options: Any) -> Iterator[Sampler]:
    sampler = Sampler(settings, vocab=row.handle, n_vocab=row.n_vocab, n_ctx_train=N_CTX, **options)
    try:
        yield sampler
    finally:
        sampler.free()


def draws(
    row: LogitRow, settings: Sampling, logits: NDArray[np.floating], *, count: int = 50, **options: Any
) -> list[int]:
    """Return tokens drawn one after the other, each from `logits`."""
    row.write(logits)
    with sampling(row, settings, **options) as sampler:
        return [sampler.choose(row.context, row.row) for _ in range(count)]


def candidates(sampler: Sampler, logits: NDArray[np.floating]) -> tuple[dict[int, float], int]:
    """Apply the chain to `logits` and return each candidate's final probability, and the chosen token."""
    data = (c.llama_token_data * len(logits))(*((n, float(x), 0.0) for n, x in enumerate(logits)))
    array = c.llama_token_data_array(data=data, size=len(logits), selected=-1, sorted=False)
    c.llama_sampler_apply(sampler._chain, ctypes.byref(array))
    left = {array.data[n].id: array.data[n].p for n in range(array.size)}
    return left, array.data[array.selected].id


def some_logits(seed: int, *, spread: float = 3.0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(scale=spread, size=N_VOCAB).astype(np.float32)


def assert_same(found: dict[int, float], expected: dict[int, float]) -> None:
    """Tokens without a probability count as absent."""
    tokens = {token for part in (found, expected) for token, p in part.items() if p > 1e-6}
    for token in tokens:
        assert found.get(token, 0) == pytest.approx(expected.get(token, 0), rel=1e-3, abs=1e-6)


def breaker_tokens(row: LogitRow, settings: Sampling) -> set[int]:
    marks = [breaker.encode() for breaker in settings.dry_sequence_breakers]
    return {n for n in range(row.n_vocab) if any(mark in row.vocab.piece(n) for mark in marks)}


# Against the second implementation -----------------------------------------------------------------------


def maybe(off: float, low: int, high: int) -> st.SearchStrategy[float]:
    """Off, or a number between low / 100 and high / 100: rounded, so that no sum stands on a threshold."""
    return st.one_of(st.just(off), st.integers(low, high).map(lambda hundredths: hundredths / 100))


@st.composite
def sampling_settings(draw: st.DrawFn) -> Sampling:
    return Sampling(
        temp=draw(st.sampled_from([0, 0.3, 0.8, 1, 1.7])),
        dynatemp_range=draw(maybe(0, 10, 150)),
        dynatemp_exponent=draw(st.sampled_from([0.5, 1, 2])),
        top_k=draw(st.sampled_from([0, 1, 5, 40, 200, 5000])),
        top_p=draw(maybe(1, 5, 99)),
        min_p=draw(maybe(0, 1, 90)),
        typical_p=draw(maybe(1, 5, 99)),
        top_n_sigma=draw(maybe(-1, 50, 400)),
        xtc_probability=draw(st.sampled_from([0, 1])),
        xtc_threshold=draw(maybe(0.1, 1, 60)),
        repeat_penalty=draw(maybe(1, 50, 200)),
        frequency_penalty=draw(maybe(0, -200, 200)),
        presence_penalty=draw(maybe(0, -200, 200)),
        penalty_last_n=draw(st.sampled_from([-1, 0, 1, 7, 64])),
        dry_multiplier=draw(maybe(0, 1, 300)),
        dry_base=draw(maybe(1.75, 100, 300)),
        dry_allowed_length=draw(st.integers(0, 4)),
        dry_penalty_last_n=draw(st.sampled_from([-1, 0, 1, 7, 64])),
        logit_bias=tuple(
            LogitBias(token=token, bias=bias / 10)
            for token, bias in draw(st.dictionaries(st.integers(0, 30), st.integers(-1200, 100))).items()
        ),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


@given(
    chosen=sampling_settings(), seed=st.integers(0, 10_000), history=st.lists(st.integers(0, 9), max_size=70)
)
@hypothesis_settings(
    max_examples=60,
    derandomize=True,  # one sum of float32 in a million stands on a threshold
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_every_parameter_does_what_its_second_implementation_does(
    row: LogitRow, chosen: Sampling, seed: int, history: list[int]
) -> None:
    logits = some_logits(seed)
    logits[:31] += 6  # what is biased, or in the history, has a chance
    expected = reference.distribution(chosen, logits, history=history, breakers=breaker_tokens(row, chosen))
    with sampling(row, chosen, prompt=history) as sampler:
        found, token = candidates(sampler, logits)
    if chosen.temp:
        assert_same(found, expected)
    assert expected[token] > 0


@pytest.mark.parametrize("seed", range(12))
def test_the_filters_follow_each_other_in_llama_cpps_order(row: LogitRow, seed: int) -> None:
    logits = some_logits(seed, spread=1.5)
    chosen = Sampling(
        temp=1.3, top_n_sigma=3, top_k=60, typical_p=0.9, top_p=0.8, min_p=0.1, dynatemp_range=0.5, seed=1
    )
    with sampling(row, chosen) as sampler:
        assert_same(candidates(sampler, logits)[0], reference.distribution(chosen, logits))


@pytest.mark.parametrize("version", [1, 2])
def test_mirostat_copes_with_banned_tokens(row: LogitRow, version: Any) -> None:
    chosen = Sampling(temp=1, mirostat=version, seed=1)
    drawn = draws(row, chosen, some_logits(0, spread=0.5), banned=range(10, N_VOCAB))
    assert 5 < len(set(drawn)) <= 10
    assert max(drawn) < 10


@pytest.mark.parametrize("version", [1, 2])
def test_mirostat_cuts_the_candidates_to_reach_its_target(row: LogitRow, version: Any) -> None:
    logits = some_logits(5)
    every = reference.softmax({token: float(value) / 0.8 for token, value in enumerate(logits)})
    best_first = sorted(every, key=lambda token: -every[token])
    mu = 2 * 3.0
    with sampling(
        row, Sampling(temp=0.8, mirostat=version, mirostat_tau=3, mirostat_eta=0.3, seed=2)
    ) as sampler:
        for _ in range(30):
            found, token = candidates(sampler, logits)
            if version == 1:
                n = reference.mirostat_k([every[token] for token in best_first], n_vocab=N_VOCAB, mu=mu)
            else:
                n = max(1, sum(-np.log2(p) <= mu for p in every.values()))
            assert set(found) == set(best_first[:n])
            mu -= 0.3 * (-np.log2(found[token]) - 3.0)


def test_mirostat_honours_penalties_and_leaves_out_the_filters(row: LogitRow) -> None:
    logits = some_logits(5)
    best = int(logits.argmax())
    chosen = Sampling(temp=1, top_k=1, mirostat=2, mirostat_tau=10, presence_penalty=100, seed=2)
    with sampling(row, chosen, prompt=[best]) as sampler:
        found, _ = candidates(sampler, logits)
    assert len(found) > 1
    assert best not in found or found[best] < 1e-6


# The draw ------------------------------------------------------------------------------------------------


def test_tokens_are_drawn_as_often_as_they_are_likely(row: LogitRow) -> None:
    logits = some_logits(3, spread=1.5)
    chosen = change(PLAIN, temp=0.7, top_k=12, seed=11)
    count = 4000
    found = Counter(draws(row, chosen, logits, count=count))
    expected = reference.distribution(chosen, logits)
    assert set(found) <= set(expected)
    for token, p in expected.items():
        assert abs(found[token] - count * p) < 5 * np.sqrt(count * p)


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_the_same_seed_draws_the_same_tokens(row: LogitRow, seed: int) -> None:
    first, second = (draws(row, change(PLAIN, seed=seed), some_logits(3)) for _ in range(2))
    assert first == second


def test_another_seed_and_no_seed_draw_other_tokens(row: LogitRow) -> None:
    drawn = [draws(row, change(PLAIN, seed=seed), some_logits(3)) for seed in (1, 2, None, None)]
    assert len({tuple(tokens) for tokens in drawn}) == 4


def test_xtc_strikes_as_often_as_it_was_told(row: LogitRow) -> None:
    logits = np.zeros(N_VOCAB, dtype=np.float32)
    logits[:2] = 30, 28  # 0.88 and 0.12
    found = Counter(draws(row, change(PLAIN, xtc_probability=0.3), logits, count=3000))
    assert found[0] == pytest.approx(3000 * (1 - 0.3) * 0.88, rel=0.06)
    assert found[0] + found[1] == 3000


def test_xtc_and_typical_cannot_change_greedy(row: LogitRow) -> None:
    logits = some_logits(4)
    chosen = Sampling(
        temp=0, xtc_probability=1, xtc_threshold=0.01, typical_p=0.1, dynatemp_range=2, mirostat=1
    )
    assert set(draws(row, chosen, logits)) == {int(logits.argmax())}


def test_top_k_of_one_is_greedy_at_any_temperature(row: LogitRow) -> None:
    logits = some_logits(4)
    assert set(draws(row, Sampling(temp=100, top_k=1), logits)) == {int(logits.argmax())}


def test_a_dynamic_temperature_near_zero_is_greedy(row: LogitRow) -> None:
    logits = np.zeros(N_VOCAB, dtype=np.float32)
    logits[7] = 60  # so sure that the entropy to the third power is not a float32
    chosen = change(PLAIN, temp=0.5, dynatemp_range=0.5, dynatemp_exponent=3)
    assert set(draws(row, chosen, logits)) == {7}


# Biases and bans -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("temp", [0, 1])
def test_banned_tokens_never_appear(row: LogitRow, temp: float) -> None:
    logits = np.zeros(N_VOCAB, dtype=np.float32)
    logits[:4] = 30, 29, 28, 27
    chosen = change(
        PLAIN, temp=temp, logit_bias=(LogitBias(token=1, bias=-100), LogitBias(token=2, bias=-1e30))
    )
    assert set(draws(row, chosen, logits, banned=(0,))) == {3}


def test_a_ban_is_stronger_than_a_bias(row: LogitRow) -> None:
    chosen = Sampling(temp=0, logit_bias=(LogitBias(token=5, bias=100),))
    assert 5 not in draws(row, chosen, some_logits(1), banned=(5,))
    assert 5 in draws(row, chosen, some_logits(1))


def test_tokens_that_the_model_suppresses_never_appear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_tokenizer = tiny_moe.add_tokenizer

    def add(writer: GGUFWriter, *args: Any, **options: Any) -> None:
        add_tokenizer(writer, *args, **options)
        writer.add_array("tokenizer.ggml.suppress_tokens", [9, 11])

    monkeypatch.setattr(tiny_moe, "add_tokenizer", add)
    with logit_row(tiny_moe.write_tiny_moe(tmp_path / "suppresses.gguf")) as row:
        logits = some_logits(1)
        logits[[9, 11, 12]] = 70, 60, 50
        assert set(draws(row, PLAIN, logits)) == {12}


def test_typical_sampling_copes_with_banned_tokens(row: LogitRow) -> None:
    logits = some_logits(6)
    banned = range(0, N_VOCAB, 2)
    chosen = change(PLAIN, typical_p=0.5)
    expected = reference.distribution(
        change(chosen, logit_bias=tuple(LogitBias(token=token, bias=-100) for token in banned)), logits
    )
    with sampling(row, chosen, banned=banned) as sampler:
        assert_same(candidates(sampler, logits)[0], expected)


# Penalties -----------------------------------------------------------------------------------------------


def test_chosen_tokens_are_penalized_from_then_on(row: LogitRow) -> None:
    logits = np.zeros(N_VOCAB, dtype=np.float32)
    logits[:4] = 10, 9, 8, 7
    chosen = Sampling(temp=0, presence_penalty=5)
    assert draws(row, chosen, logits, count=5) == [0, 1, 2, 3, 0]
    assert draws(row, Sampling(temp=0), logits, count=5) == [0] * 5


def test_a_frequency_counts_and_a_presence_does_not(row: LogitRow) -> None:
    logits = np.zeros(N_VOCAB, dtype=np.float32)
    logits[:2] = 10, 8
    for chosen, expected in (
        (Sampling(temp=0, frequency_penalty=1), [0, 0, 0, 1, 0, 1]),
        (Sampling(temp=0, presence_penalty=1), [0] * 6),
    ):
        assert draws(row, chosen, logits, count=6) == expected


def test_the_prompt_is_penalized_as_far_as_the_window_reaches(row: LogitRow) -> None:
    logits = np.zeros(N_VOCAB, dtype=np.float32)
    logits[7] = 10
    prompt = [7, *range(100, 300)]
    for last_n, expected in ((64, 7), (200, 7), (201, 0), (-1, 0), (2**31 - 1, 0), (0, 7)):
        chosen = Sampling(temp=0, presence_penalty=50, penalty_last_n=last_n)
        with sampling(row, chosen, prompt=prompt) as sampler:
            assert candidates(sampler, logits)[1] == expected


def test_dry_breaks_a_loop_that_greedy_is_caught_in(row: LogitRow) -> None:
    loop = [100, 101, 102, 103]

    def said(chosen: Sampling) -> list[int]:
        tokens = loop * 3
        with sampling(row, chosen, prompt=tokens) as sampler:
            for _ in range(12):
                logits = np.zeros(N_VOCAB, dtype=np.float32)
                logits[loop[(loop.index(tokens[-1]) + 1) % 4] if tokens[-1] in loop else 104] = 5
                row.write(logits)
                tokens.append(sampler.choose(row.context, row.row))
        return tokens

    assert said(Sampling(temp=0)) == loop * 6
    assert said(Sampling(temp=0, dry_multiplier=0.8)) != loop * 6
    assert said(Sampling(temp=0, dry_multiplier=0.8, dry_penalty_last_n=2)) == loop * 6


def test_dry_lets_repeat_what_stands_behind_a_breaker(row: LogitRow) -> None:
    (newline,) = row.vocab.tokenize("\n")
    prompt = [100, 101, 102, newline, 100, 101]
    logits = np.zeros(N_VOCAB, dtype=np.float32)
    logits[102] = 1
    broken = Sampling(temp=0, dry_multiplier=10)
    for chosen, expected in ((broken, False), (change(broken, dry_allowed_length=3), True)):
        with sampling(row, chosen, prompt=prompt) as sampler:
            assert (candidates(sampler, logits)[1] == 102) is expected
    # Without a breaker the newline would be one of three repeated tokens.
    prompt = [newline, 100, 101, 102, newline, 100, 101]
    chosen = change(broken, dry_allowed_length=3)
    for breakers, expected in (((), False), (("\n",), True)):
        with sampling(row, change(chosen, dry_sequence_breakers=breakers), prompt=prompt) as sampler:
            assert (candidates(sampler, logits)[1] == 102) is expected


# Constraints ---------------------------------------------------------------------------------------------


def constraint_for(row: LogitRow, source: str) -> Constraint:
    return ConstraintFactory(row.vocab).compile(Grammar(kind="gbnf", source=source))


def constrained_answer(row: LogitRow, chosen: Sampling, source: str, **options: Any) -> bytes:
    answer = b""
    with sampling(row, chosen, **options) as sampler:
        sampler.constraint = constraint = constraint_for(row, source)
        for seed in range(20):
            row.write(some_logits(seed))
            answer += row.vocab.piece(sampler.choose(row.context, row.row))
            if constraint.is_complete:
                break
    return answer


@pytest.mark.parametrize(
    "chosen",
    [
        Sampling(temp=0),
        change(PLAIN, temp=3),
        change(PLAIN, typical_p=0.3),
        Sampling(seed=3, mirostat=1),
        Sampling(seed=3, mirostat=2, repeat_penalty=1.5, dry_multiplier=2, dry_allowed_length=0),
        Sampling(seed=3, xtc_probability=1, xtc_threshold=0, top_n_sigma=0.1, top_k=3, top_p=0.1),
    ],
)
def test_a_constraint_is_obeyed_whatever_the_chain_is(row: LogitRow, chosen: Sampling) -> None:
    assert constrained_answer(row, chosen, 'root ::= "ab" | "ba"') in {b"ab", b"ba"}


def test_a_constraint_wins_over_a_ban(row: LogitRow) -> None:
    bans = tuple(LogitBias(token=token, bias=-100) for token in range(17, N_VOCAB))
    for temp in (0, 1):
        chosen = Sampling(temp=temp, seed=1, logit_bias=bans)
        assert constrained_answer(row, chosen, 'root ::= "yes"') == b"yes"


def test_a_constraint_leaves_the_logits_alone_when_they_are_wanted(row: LogitRow) -> None:
    logits = some_logits(1)
    for keep in (True, False):
        row.write(logits)
        with sampling(row, PLAIN, keep_logits=keep) as sampler:
            sampler.constraint = constraint_for(row, 'root ::= "yes"')
            sampler.choose(row.context, row.row)
        assert bool((row.values() == logits).all()) is keep


# Hostile requests ----------------------------------------------------------------------------------------

_ANY_FLOAT = st.one_of(
    st.floats(), st.floats(-2, 2), st.sampled_from([0, 1, -1, 1e-30, 1e6, 2**31, -(2**63)])
)
_ANY_INT = st.one_of(st.integers(-2, 70), st.integers(-(2**63), 2**63))
_ANYTHING = {
    name: st.just(default) | (_ANY_INT if isinstance(default, int) else _ANY_FLOAT)
    for name, default in zip(Sampling.__struct_fields__, Sampling.__struct_defaults__, strict=True)
    if isinstance(default, int | float)
} | {
    "seed": st.none() | _ANY_INT,
    "dry_sequence_breakers": st.lists(st.text(max_size=45), max_size=18).map(tuple),
    "logit_bias": st.lists(
        st.builds(LogitBias, token=st.integers(-2, N_VOCAB + 2), bias=_ANY_FLOAT), max_size=8
    ).map(tuple),
}


@given(values=st.fixed_dictionaries(_ANYTHING), spread=st.sampled_from([0, 1e-3, 3, 100]))
@hypothesis_settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_hostile_request_is_refused_or_answered(
    row: LogitRow, values: dict[str, Any], spread: float
) -> None:
    chosen = Sampling(**values)
    tokens: list[int] = []
    problem = ""
    try:
        tokens = draws(row, chosen, some_logits(0, spread=spread), count=4, prompt=[1, 2, 3, 1, 2, 3, 1, 2])
    except UsageError as refused:
        problem = refused.message
    assert len(tokens) == 4 or any(name in problem for name in values)
    assert all(0 <= token < N_VOCAB for token in tokens)


def test_banning_the_whole_vocabulary_is_refused(row: LogitRow) -> None:
    bans = tuple(LogitBias(token=token, bias=-100) for token in range(N_VOCAB))
    with pytest.raises(UsageError, match="all 1024 tokens"):
        draws(row, Sampling(logit_bias=bans), some_logits(0))

from __future__ import annotations

import json
import random
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from edgeapp.engine import bindings
from edgeapp.engine.bindings import Batch
from edgeapp.engine.constraint import ConstraintFactory
from edgeapp.errors import EngineError, GrammarError
from edgeapp.protocol import Grammar
from tests.engine.raw_model import RawModel, raw_model
from tests.engine.schemas import schemas
from tests.engine.walking import allowed, feed, may_end, random_answer, vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edgeapp.engine.model import Vocab

_PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["a", "b"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}
_FAST = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


@pytest.fixture(scope="module")
def vocab(tiny_moe: Path) -> Iterator[Vocab]:
    with vocabulary(tiny_moe) as words:
        yield words


@pytest.fixture(scope="module")
def factory(vocab: Vocab) -> ConstraintFactory:
    return ConstraintFactory(vocab)


@pytest.fixture(scope="module")
def model(tiny_moe: Path) -> Iterator[RawModel]:
    with raw_model(tiny_moe) as raw:
        yield raw


def _schema(schema: Any) -> Grammar:
    return Grammar(kind="json_schema", source=json.dumps(schema))


# Answers -------------------------------------------------------------------------------------------------


@_FAST
@given(schema=schemas(), seed=st.integers(0, 2**32))
def test_every_answer_under_a_schema_validates(
    factory: ConstraintFactory, vocab: Vocab, schema: dict[str, Any], seed: int
) -> None:
    try:
        constraint = factory.compile(_schema(schema))
    except GrammarError as refusal:
        assert "nsatisfiable" in refusal.message  # noqa: PT017 - only a schema without values may be refused
        return
    answer = random_answer(constraint, vocab, random.Random(seed))
    if answer is not None:
        Draft202012Validator(schema).validate(json.loads(answer))


@pytest.mark.parametrize("seed", range(10))
def test_a_json_object_is_an_object(factory: ConstraintFactory, vocab: Vocab, seed: int) -> None:
    answer = random_answer(factory.compile(Grammar(kind="json_object")), vocab, random.Random(seed))
    assert answer is None or isinstance(json.loads(answer), dict)


@pytest.mark.parametrize(
    "pattern", ["[a-c]+(foo|bar)?", "(?:ab|a)(?:c|bcd)d*", "^é{2}\\d$", "[^\\x00-\\x7f]", ""]
)
@pytest.mark.parametrize("seed", range(3))
def test_an_answer_matches_its_regular_expression(
    factory: ConstraintFactory, vocab: Vocab, pattern: str, seed: int
) -> None:
    answer = random_answer(factory.compile(Grammar(kind="regex", source=pattern)), vocab, random.Random(seed))
    assert answer is not None
    assert re.fullmatch(pattern, answer)


def test_an_answer_is_complete_when_nothing_may_follow(factory: ConstraintFactory, vocab: Vocab) -> None:
    constraint = factory.compile(_schema(_PERSON))
    assert feed(constraint, vocab, '{"name": "x", "age": 7, "kind": "a"')
    assert not may_end(constraint, vocab)
    assert feed(constraint, vocab, "}")
    assert constraint.is_complete


def test_an_answer_may_end_where_it_may_also_go_on(factory: ConstraintFactory, vocab: Vocab) -> None:
    constraint = factory.compile(_schema({"type": "integer"}))
    assert feed(constraint, vocab, "12")
    assert not constraint.is_complete
    assert may_end(constraint, vocab)
    assert set(vocab.eog_tokens) <= set(allowed(constraint, vocab))


def test_control_tokens_are_no_text(factory: ConstraintFactory, vocab: Vocab) -> None:
    constraint = factory.compile(_schema({"type": "string"}))
    assert feed(constraint, vocab, '"')
    control = {token for token in range(vocab.facts.n_tokens) if not vocab.piece(token)}
    assert control
    assert not control & set(allowed(constraint, vocab))


def test_the_bytes_of_a_control_token_are_text(factory: ConstraintFactory, vocab: Vocab) -> None:
    assert feed(factory.compile(_schema({"type": "string"})), vocab, '"<|im_end|>"')


@pytest.mark.parametrize("start", ["", "[", "[[]", "[[],", "[[], ", "[[], []", "[[], []]"])
def test_white_space_cannot_run_away(factory: ConstraintFactory, vocab: Vocab, start: str) -> None:
    constraint = factory.compile(_schema({"type": "array", "items": {"type": "array"}}))
    assert feed(constraint, vocab, start)
    assert not feed(constraint, vocab, "  ")


def test_a_grammar_that_was_used_before_starts_again(factory: ConstraintFactory, vocab: Vocab) -> None:
    first = factory.compile(_schema(_PERSON))
    assert feed(first, vocab, '{"name": "')
    second = factory.compile(_schema(_PERSON))
    assert feed(second, vocab, '{"name": "y"')
    assert feed(first, vocab, 'z"')


def test_a_forbidden_token_is_an_error(factory: ConstraintFactory, vocab: Vocab) -> None:
    constraint = factory.compile(_schema(_PERSON))
    with pytest.raises(EngineError, match="does not allow token"):
        constraint.accept(vocab.tokenize("x")[0])


# Logits --------------------------------------------------------------------------------------------------


def test_the_mask_forbids_in_its_row_only(factory: ConstraintFactory, vocab: Vocab, model: RawModel) -> None:
    before = model.logits([1, 2, 3])
    constraint = factory.compile(_schema(_PERSON))
    constraint.mask(model.context, 1)
    after = np.array([np.array(bindings.logits_row(model.context, row, model.n_vocab)) for row in range(3)])
    open_tokens = allowed(constraint, vocab)
    assert np.array_equal(after[[0, 2]], before[[0, 2]])
    assert np.array_equal(after[1, open_tokens], before[1, open_tokens])
    assert np.isneginf(np.delete(after[1], open_tokens)).all()


def test_a_model_that_talks_nonsense_obeys_a_schema(
    factory: ConstraintFactory, vocab: Vocab, model: RawModel
) -> None:
    constraint = factory.compile(_schema(_PERSON))
    bindings.kv_clear(model.context)
    batch, token, data = Batch(1), 1, b""
    for n_past in range(100):
        batch.clear()
        batch.add([token], sequence=0, n_past=n_past, n_logits=1)
        assert batch.decode(model.context) == "ok"
        constraint.mask(model.context, 0)
        token = int(np.argmax(bindings.logits_row(model.context, 0, model.n_vocab)))
        constraint.accept(token)
        data += vocab.piece(token)
        if constraint.is_complete:
            break
    Draft202012Validator(_PERSON).validate(json.loads(data))


# Hostile input -------------------------------------------------------------------------------------------

_HOSTILE = {
    "60,000 parentheses": "root ::= " + "(" * 60_000 + '"a"' + ")" * 60_000,
    "5,000 parentheses": "root ::= " + "(" * 5_000 + '"a"' + ")" * 5_000,
    "a long repetition": 'root ::= "a"{1000000000}',
    "itself": "root ::= root",
    "a loop without end": "root ::= a\na ::= b\nb ::= a",
    "half a million bytes": 'root ::= "' + "a" * 500_000 + '"',
}


@pytest.mark.parametrize("source", _HOSTILE.values(), ids=_HOSTILE.keys())
def test_a_hostile_grammar_is_refused(factory: ConstraintFactory, source: str) -> None:
    with pytest.raises(GrammarError) as refusal:
        factory.compile(Grammar(kind="gbnf", source=source))
    assert refusal.value.exit_code == 2


@_FAST
@given(
    kind=st.sampled_from(["gbnf", "regex", "json_schema"]),
    source=st.text(st.sampled_from('root ::= "a"|()[]{}^$\\*+?.,0123#\n<>!-xud:'), max_size=60)
    | st.text(max_size=30),
    seed=st.integers(0, 2**32),
)
def test_any_text_is_a_grammar_or_refused(
    factory: ConstraintFactory, vocab: Vocab, kind: Any, source: str, seed: int
) -> None:
    try:
        constraint = factory.compile(Grammar(kind=kind, source=source))
    except GrammarError:
        return
    random_answer(constraint, vocab, random.Random(seed), n_free=10, n_most=60)

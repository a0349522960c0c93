from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeapp.engine.constraint import ConstraintFactory
from edgeapp.engine.grammar.gbnf import MAX_RULES, parse_gbnf
from edgeapp.engine.grammar.lark import rules_to_lark
from edgeapp.engine.grammar.reader import MAX_DEPTH
from edgeapp.engine.grammar.tree import MAX_POSITIONS, Chars, Reference, Repeat, Sequence
from edgeapp.errors import GrammarError
from edgeapp.protocol import Grammar
from tests.engine.grammar.sentences import grammars, matches, sentence
from tests.engine.walking import feed, may_end, random_answer, vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edgeapp.engine.model import Vocab

_FAST = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
_JSON = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ([^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}))* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws     ::= | " " | "\n" [ \t]{0,20}  # as in llama.cpp's grammars/json.gbnf
"""


@pytest.fixture(scope="module")
def vocab(tiny_moe: Path) -> Iterator[Vocab]:
    with vocabulary(tiny_moe) as words:
        yield words


@pytest.fixture(scope="module")
def factory(vocab: Vocab) -> ConstraintFactory:
    return ConstraintFactory(vocab)


@_FAST
@given(source=grammars(), seed=st.integers(0, 2**32))
def test_every_sentence_of_a_grammar_is_allowed(
    factory: ConstraintFactory, vocab: Vocab, source: str, seed: int
) -> None:
    try:
        rules = parse_gbnf(source)
    except GrammarError as refusal:
        assert "without end" in refusal.message  # noqa: PT017 - the only fault that these can have
        return
    text = sentence(rules, random.Random(seed))
    if text is None or len(text) > 30:
        return
    constraint = factory.compile(Grammar(kind="gbnf", source=source))
    assert feed(constraint, vocab, text), f"{text!r} is not allowed"
    assert may_end(constraint, vocab), f"{text!r} may not end"


@_FAST
@given(source=grammars(), seed=st.integers(0, 2**32))
def test_every_allowed_answer_is_a_sentence(
    factory: ConstraintFactory, vocab: Vocab, source: str, seed: int
) -> None:
    try:
        rules = parse_gbnf(source)
    except GrammarError:
        return
    constraint = factory.compile(Grammar(kind="gbnf", source=source))
    answer = random_answer(constraint, vocab, random.Random(seed), n_free=4, n_most=40)
    if answer is not None and len(answer) <= 20:
        assert matches(rules, answer), f"{answer!r} does not match"


def test_strings_of_a_recursive_grammar_are_terminals() -> None:
    lark = rules_to_lark(parse_gbnf(_JSON))
    terminals = [line for line in lark.splitlines() if line.startswith("T")]
    assert any(r"\x{22}" in line and r"\x{5c}" in line and line.endswith("{0,20})") for line in terminals)


def test_a_grammar_without_recursion_is_one_terminal() -> None:
    assert rules_to_lark(parse_gbnf('root ::= one "x"\none ::= "abc" | [a-z] [a-z]')).startswith("start: T")


def test_repetitions_and_classes_are_read_as_llama_cpp_reads_them() -> None:
    rules = parse_gbnf('root ::= [^\\x00-\\U0010FFFE]{2,} # comment\n  \n one::="\\n"')
    assert rules == {"root": Repeat(item=Chars(ranges=((0x10FFFF, 0x10FFFF),)), at_least=2, at_most=None)}


def test_a_choice_goes_on_after_a_newline_and_inside_parentheses() -> None:
    rules = parse_gbnf("root ::= one |\n  (one\n  one)\none ::= [a]")
    assert rules["root"] == parse_gbnf("root ::= one | (one one)\none ::= [a]")["root"]


def test_rules_that_are_not_reached_are_left_out() -> None:
    assert list(parse_gbnf("root ::= one\none ::= [a]\ntwo ::= missing")) == ["root", "one"]


def test_an_empty_alternative_is_nothing() -> None:
    assert parse_gbnf('root ::= | "ab"')["root"].options[0] == Sequence(items=())  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("", "no rule named 'root'"),
        ("root ::= one", "a rule 'one' that it does not define"),
        ("root ::= [a]\nroot ::= [b]", "defines the rule 'root' twice"),
        ("root = [a]", "needs ::="),
        ('root ::= "a', "ends too early"),
        ("root ::= [b-a]", "ends before it begins"),
        ('root ::= "\\q"', "unknown escape"),
        ('root ::= "\\uD800"', "not a character"),
        ("root ::= ([a]", "closing parenthesis"),
        ("root ::= [a])", "unexpected ')'"),
        ("root ::= [a]{3,1}", "at least 3 and at most 1"),
        ("root ::= [a]{,}x\nx ::= y", "a rule 'y'"),
        ("root ::= <think>", "only text"),
        ('root ::= "a" root', "without end"),
        ("root ::= [a]{5000}", "the most is 4096"),
        (f"root ::= {'(' * MAX_DEPTH}[a]{')' * MAX_DEPTH}", f"more than {MAX_DEPTH} levels"),
        ("root ::= one{200}\none ::= two{200}\ntwo ::= [a]", f"more than {MAX_POSITIONS} characters"),
        ("root ::= root? one{200}\none ::= two{200}\ntwo ::= [a]", f"more than {MAX_POSITIONS} characters"),
        (f'root ::= "{"a" * 5000}"', "more than 4096 elements"),
        (
            "root ::= [a]\n" + "".join(f"r{i} ::= [a]\n" for i in range(MAX_RULES)),
            f"more than {MAX_RULES} rules",
        ),
        ("root ::= [a]" + " " * 20_000, "20012 bytes"),
    ],
)
def test_a_wrong_grammar_is_refused_with_the_reason(source: str, reason: str) -> None:
    with pytest.raises(GrammarError, match=reason.replace("(", r"\(").replace(")", r"\)")):
        parse_gbnf(source)


def test_a_grammar_as_deep_as_the_cap_compiles(factory: ConstraintFactory, vocab: Vocab) -> None:
    depth = MAX_DEPTH - 1
    source = f"root ::= {'(' * depth}[a]{' | [b] )' * depth} root?"
    constraint = factory.compile(Grammar(kind="gbnf", source=source))
    assert feed(constraint, vocab, "abab")
    assert may_end(constraint, vocab)


@pytest.mark.parametrize(("n_rules", "tail"), [(MAX_RULES, ""), (MAX_RULES, "root?"), (40, "root?")])
def test_a_chain_of_rules_compiles(factory: ConstraintFactory, n_rules: int, tail: str) -> None:
    last = n_rules - 2
    chain = "".join(f"r{i} ::= [a] | r{i + 1} [b]\n" for i in range(last))
    factory.compile(Grammar(kind="gbnf", source=f"root ::= r0 {tail}\n{chain}r{last} ::= [c]"))


def test_a_reference_is_a_reference() -> None:
    assert parse_gbnf("root ::= one\none ::= [a]")["root"] == Reference(name="one")

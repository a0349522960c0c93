"""Small grammars made by hypothesis, the sentences they produce, and a slow parser that knows no shortcut."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

from edgeapp.engine.grammar.tree import Chars, Choice, Node, Reference, Repeat, Rules, Sequence

if TYPE_CHECKING:
    import random

_CHARS = st.sampled_from(['"a"', '"b"', '"ab"', '"aba"', '"x"', '"é"', "[ab]", "[a-c]", "[^b]", '""'])
_NAMES = st.sampled_from(["root", "one", "two", "three"])


def _larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    repeated = st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{0,2}", "{1,}"])).map(
        lambda pair: f"({pair[0]}){pair[1]}"
    )
    sequences = st.lists(inner, min_size=2, max_size=3).map(" ".join)
    choices = st.lists(inner, min_size=2, max_size=3).map(lambda options: "(" + " | ".join(options) + ")")
    return repeated | sequences | choices


_BODIES = st.recursive(_CHARS | _NAMES, _larger, max_leaves=7)


def grammars() -> st.SearchStrategy[str]:
    """Return GBNF with four rules that use each other in every way, ambiguous more often than not."""
    return st.tuples(_BODIES, _BODIES, _BODIES, _BODIES).map(
        lambda bodies: "\n".join(
            f"{name} ::= {body}" for name, body in zip(["root", "one", "two", "three"], bodies, strict=True)
        )
    )


def sentence(rules: Rules, dice: random.Random) -> str | None:
    """Return a text that `root` produces; None when this throw of the dice did not end."""
    budget = [200]

    def produce(node: Node) -> str:
        budget[0] -= 1
        if budget[0] < 0:
            raise OverflowError
        match node:
            case Chars(ranges=ranges):
                return "c" if len(ranges) > 1 and dice.random() < 0.5 else chr(dice.choice(ranges)[0] or 0x63)
            case Reference(name=name):
                return produce(rules[name])
            case Choice(options=options):
                return produce(dice.choice(options))
            case Sequence(items=items):
                return "".join(produce(item) for item in items)
            case Repeat(item=item, at_least=at_least, at_most=at_most):
                times = dice.randint(at_least, at_least + 2 if at_most is None else at_most)
                return "".join(produce(item) for _ in range(times))

    try:
        return produce(rules["root"])
    except OverflowError:
        return None


def matches(rules: Rules, text: str) -> bool:
    """Return whether `root` produces all of `text`: try everything until nothing new is found."""
    found: dict[tuple[str, int], set[int]] = {
        (name, at): set() for name in rules for at in range(len(text) + 1)
    }
    changed = True
    while changed:
        changed = False
        for (name, at), ends in found.items():
            more = _ends(rules[name], at, text, found) - ends
            ends.update(more)
            changed |= bool(more)
    return len(text) in found["root", 0]


def _ends(node: Node, at: int, text: str, found: dict[tuple[str, int], set[int]]) -> set[int]:
    match node:
        case Chars(ranges=ranges):
            fits = at < len(text) and any(low <= ord(text[at]) <= high for low, high in ranges)
            return {at + 1} if fits else set()
        case Reference(name=name):
            return found[name, at]
        case Choice(options=options):
            return set().union(*(_ends(option, at, text, found) for option in options))
        case Sequence(items=items):
            ends = {at}
            for item in items:
                ends = set().union(*(_ends(item, start, text, found) for start in ends))
            return ends
        case Repeat(item=item, at_least=at_least, at_most=at_most):
            return _ends_of_repeat(item, at_least, at_most, at, text, found)


def _ends_of_repeat(
    item: Node, at_least: int, at_most: int | None, at: int, text: str, found: dict[tuple[str, int], set[int]]
) -> set[int]:
    current, ends = {at}, {at} if at_least == 0 else set()
    most = at_least + len(text) + 1 if at_most is None else at_most
    for times in range(1, most + 1):
        current = set().union(*(_ends(item, start, text, found) for start in current))
        ends |= current if times >= at_least else set()
    return ends

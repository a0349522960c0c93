"""The tree that GBNF and regular expressions are parsed into, its size, and its text as a regular expression.

A leaf is one character out of a set of code points, so both languages mean the same thing once parsed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

MAX_CODE_POINT = 0x10FFFF
_SURROGATES = (0xD800, 0xDFFF)

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Chars:
    """One character; `ranges` are inclusive code points, sorted, disjoint and without surrogates."""

    ranges: Ranges


@dataclass(frozen=True, kw_only=True)
class Sequence:
    items: tuple[Node, ...]


@dataclass(frozen=True, kw_only=True)
class Choice:
    options: tuple[Node, ...]


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """`item` at least `at_least` and at most `at_most` times; None is without end."""

    item: Node
    at_least: int
    at_most: int | None


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The rule of that name."""

    name: str


Node = Chars | Sequence | Choice | Repeat | Reference
Rules = Mapping[str, Node]

EMPTY = Sequence(items=())


def sequence(items: Iterable[Node]) -> Node:
    parts = tuple(items)
    return parts[0] if len(parts) == 1 else Sequence(items=parts)


def choice(options: Iterable[Node]) -> Node:
    parts = tuple(options)
    return parts[0] if len(parts) == 1 else Choice(options=parts)


def children(node: Node) -> tuple[Node, ...]:
    match node:
        case Sequence(items=items):
            return items
        case Choice(options=options):
            return options
        case Repeat(item=item):
            return (item,)
        case Chars() | Reference():
            return ()


def walk(node: Node) -> Iterator[Node]:
    yield node
    for child in children(node):
        yield from walk(child)


def height(node: Node) -> int:
    return 1 + max((height(child) for child in children(node)), default=0)


# Sets of characters --------------------------------------------------------------------------------------


def char_set(ranges: Iterable[tuple[int, int]], *, negated: bool = False) -> Ranges:
    """Sort and join inclusive code point ranges, or return their complement; surrogates are left out."""
    joined = _joined(itertools.chain(ranges, [_SURROGATES])) if negated else _joined(ranges)
    return _complement(joined) if negated else _complement(_joined([*_complement(joined), _SURROGATES]))


def _joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    return joined


def _complement(ranges: Iterable[tuple[int, int]]) -> Ranges:
    gaps: list[tuple[int, int]] = []
    start = 0
    for low, high in ranges:
        if low > start:
            gaps.append((start, low - 1))
        start = high + 1
    return (*gaps, (start, MAX_CODE_POINT)) if start <= MAX_CODE_POINT else tuple(gaps)


def literal(text: str) -> Node:
    return sequence(Chars(ranges=((ord(char), ord(char)),)) for char in text)


# Size and text -------------------------------------------------------------------------------------------


MAX_POSITIONS = 16384
"""Characters of a grammar with its repetitions written out: the states that its automaton may need, and the
longest text that it can force, for which llguidance needs 10 ms a token."""


def n_positions(node: Node, known: Mapping[str, int] | None = None) -> int:
    """Return how many characters `node` has with repetitions written out; `known` are the sizes of rules."""
    match node:
        case Chars():
            return 1
        case Reference(name=name):
            return (known or {})[name]
        case Repeat(item=item, at_least=at_least, at_most=at_most):
            times = at_least + 1 if at_most is None else at_most
            return times * n_positions(item, known)
        case _:
            return sum(n_positions(child, known) for child in children(node))


def references(node: Node) -> set[str]:
    return {part.name for part in walk(node) if isinstance(part, Reference)}


def in_order(rules: Rules) -> list[str]:
    """Return the names of the rules that do not recur, each after those it uses."""
    uses = {name: references(body) for name, body in rules.items()}
    order: dict[str, None] = {}
    while ready := [name for name in uses if name not in order and uses[name] <= order.keys()]:
        order |= dict.fromkeys(ready)
    return list(order)


def to_regex(node: Node) -> str:
    """Write a tree without references for Rust's `regex` crate, with nothing but hexadecimal characters.

    So no character can mean something else to the parser that reads it.
    """
    match node:
        case Chars(ranges=ranges):
            return chars_regex(ranges)
        case Repeat(item=item):
            return f"(?:{to_regex(item)}){quantifier(node)}"
        case Choice(options=options):
            return "(?:" + "|".join(to_regex(option) for option in options) + ")"
        case _:
            return "".join(to_regex(child) for child in children(node))


def chars_regex(ranges: Ranges) -> str:
    return "[" + "".join(_range_regex(low, high) for low, high in ranges) + "]"


def _range_regex(low: int, high: int) -> str:
    return f"\\x{{{low:x}}}" if low == high else f"\\x{{{low:x}}}-\\x{{{high:x}}}"


def quantifier(repeat: Repeat) -> str:
    match (repeat.at_least, repeat.at_most):
        case (0, None):
            return "*"
        case (1, None):
            return "+"
        case (0, 1):
            return "?"
        case (at_least, at_most):
            return f"{{{at_least},{'' if at_most is None else at_most}}}"

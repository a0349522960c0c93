"""Cut a recursive grammar into terminals without changing what it means. Pure.

llguidance matches a terminal with an automaton, a hundred times as fast as rules over single characters, but
greedily: with `("abc" | [a-z] [a-z]) "x"` it does not find "abx". A cut is safe when, wherever a terminal may
end, no character that would lengthen it (or another one that has begun the same way) may also begin what
follows. Terminals for which that does not hold are cut into smaller ones, in the end into single characters.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from edgeapp.engine.grammar.automaton import Automaton, Positions, TooLarge
from edgeapp.engine.grammar.tree import (
    Chars,
    Choice,
    Node,
    Reference,
    Repeat,
    Rules,
    Sequence,
    children,
    height,
    in_order,
    n_positions,
    references,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

MAX_TERMINAL_POSITIONS = 1024
MAX_TERMINAL_HEIGHT = 64
MAX_RULES = 100  # looking at more takes longer than a second
_MAX_ROUNDS = 6


@dataclass(frozen=True, kw_only=True)
class Cut:
    """`rules` refer to each other and to `terminals`, which refer to nothing. The first rule is the root."""

    rules: dict[str, Node] = field(default_factory=dict)
    terminals: dict[str, Node] = field(default_factory=dict)


def cut(rules: Rules, root: str) -> Cut:
    """Return the coarsest safe cut that is found."""
    if len(rules) > MAX_RULES:
        return _Cutter(rules, {}, None).run(root)
    flat = _without_references(rules)
    demoted: set[Node] = set()
    for _ in range(_MAX_ROUNDS):
        attempt = _Cutter(rules, flat, demoted).run(root)
        try:
            unsafe = _unsafe(attempt)
        except TooLarge:
            break
        if not unsafe:
            return attempt
        demoted |= unsafe
    return _Cutter(rules, {}, None).run(root)


# Cutting -------------------------------------------------------------------------------------------------


def _without_references(rules: Rules) -> dict[str, Node]:
    """Return the bodies of rules that do not recur and are small, with references replaced by bodies."""
    flat: dict[str, Node] = {}
    for name in in_order(rules):
        body = _flattened(rules[name], flat)
        if body is not None:
            flat[name] = body
    return flat


def _flattened(node: Node, flat: Mapping[str, Node]) -> Node | None:
    """Return `node` without references; None when one is not in `flat`, or when it becomes large."""
    body = _replaced(node, flat)
    if body is None or height(body) > MAX_TERMINAL_HEIGHT or n_positions(body) > MAX_TERMINAL_POSITIONS:
        return None
    return body


def _replaced(node: Node, flat: Mapping[str, Node]) -> Node | None:
    match node:
        case Chars():
            return node
        case Reference(name=name):
            return flat.get(name)
        case Repeat(item=item):
            body = _replaced(item, flat)
            return None if body is None else replace(node, item=body)
        case Choice(options=options):
            bodies = _all_replaced(options, flat)
            return None if bodies is None else Choice(options=bodies)
        case Sequence(items=items):
            bodies = _all_replaced(items, flat)
            return None if bodies is None else Sequence(items=bodies)


def _all_replaced(nodes: Iterable[Node], flat: Mapping[str, Node]) -> tuple[Node, ...] | None:
    bodies: list[Node] = []
    for node in nodes:
        body = _replaced(node, flat)
        if body is None:
            return None
        bodies.append(body)
    return tuple(bodies)


class _Cutter:
    """One attempt. `demoted` nodes may not be terminals; None allows nothing but single characters."""

    def __init__(self, rules: Rules, flat: Mapping[str, Node], demoted: set[Node] | None) -> None:
        self._rules = rules
        self._flat = flat
        self._demoted = demoted
        self._names: dict[Node, str] = {}

    def run(self, root: str) -> Cut:
        done: dict[str, Node] = {}
        pending = [root]
        while pending:
            name = pending.pop()
            if name not in done:
                done[name] = self._cut(self._rules[name])
                pending += sorted(references(done[name]) & self._rules.keys())
        return Cut(rules=done, terminals={name: node for node, name in self._names.items()})

    def _cut(self, node: Node) -> Node:
        if (terminal := self._terminal(node)) is not None:
            return terminal
        match node:
            case Sequence(items=items):
                return Sequence(items=tuple(self._runs(items)))
            case Choice(options=options):
                return Choice(options=tuple(self._cut(option) for option in options))
            case Repeat(item=item):
                return replace(node, item=self._cut(item))
            case _:
                return node

    def _runs(self, items: tuple[Node, ...]) -> Iterator[Node]:
        """Join neighbours that can be one terminal."""
        for fits, group in itertools.groupby(items, lambda item: _flattened(item, self._flat) is not None):
            run = tuple(group)
            terminal = self._terminal(Sequence(items=run)) if fits and len(run) > 1 else None
            yield from (self._cut(item) for item in run) if terminal is None else (terminal,)

    def _terminal(self, node: Node) -> Reference | None:
        if self._demoted is None:
            body: Node | None = node if isinstance(node, Chars) else None
        else:
            body = _flattened(node, self._flat)
        if body is None or _is_nullable(body) or (self._demoted is not None and body in self._demoted):
            return None
        # No rule's name in GBNF has a space in it.
        return Reference(name=self._names.setdefault(body, f"terminal {len(self._names)}"))


def _is_nullable(node: Node) -> bool:
    match node:
        case Sequence(items=items):
            return all(_is_nullable(item) for item in items)
        case Choice(options=options):
            return any(_is_nullable(option) for option in options)
        case Repeat(item=item, at_least=at_least):
            return at_least == 0 or _is_nullable(item)
        case _:
            return False


# Safety --------------------------------------------------------------------------------------------------


def _unsafe(attempt: Cut) -> set[Node]:
    """Return the terminals that may swallow what should follow another one. Raise `TooLarge`."""
    positions = Positions(attempt.terminals)
    follow = _Follow(attempt, positions).run()
    unsafe: set[Node] = set()
    for ended, lengthening in Automaton(positions).states():
        after = 0
        for name in ended:
            after |= follow[name]
        unsafe |= {attempt.terminals[name] for name, chars in lengthening if chars & after}
    return unsafe


class _Follow:
    """Which characters may come right after each terminal, as bits of `Positions`."""

    def __init__(self, attempt: Cut, positions: Positions) -> None:
        self._rules = attempt.rules
        self._first = {name: positions.first_chars(name) for name in attempt.terminals}
        self._nullable = dict.fromkeys(attempt.terminals, False)
        self._after: dict[str, int] = dict.fromkeys([*attempt.terminals, *attempt.rules], 0)

    def run(self) -> dict[str, int]:
        for name in self._rules:
            self._first[name], self._nullable[name] = 0, False
        while self._grow_first():
            pass
        while self._grow_after():
            pass
        return self._after

    def _grow_first(self) -> bool:
        changed = False
        for name, node in self._rules.items():
            found = self._begin(node)
            changed |= found != (self._first[name], self._nullable[name])
            self._first[name], self._nullable[name] = found
        return changed

    def _begin(self, node: Node) -> tuple[int, bool]:
        """Return the characters that `node` may begin with, and whether it may be empty."""
        match node:
            case Reference(name=name):
                return self._first[name], self._nullable[name]
            case Repeat(item=item, at_least=at_least):
                chars, nullable = self._begin(item)
                return chars, nullable or at_least == 0
            case Choice(options=options):
                begins = [self._begin(option) for option in options]
                return _union(chars for chars, _ in begins), any(nullable for _, nullable in begins)
            case _:
                return self._begin_of_sequence(children(node))

    def _begin_of_sequence(self, items: tuple[Node, ...]) -> tuple[int, bool]:
        chars = 0
        for item in items:
            more, nullable = self._begin(item)
            chars |= more
            if not nullable:
                return chars, False
        return chars, True

    def _grow_after(self) -> bool:
        before = dict(self._after)
        for name, node in self._rules.items():
            self._visit(node, self._after[name])
        return self._after != before

    def _visit(self, node: Node, after: int) -> None:
        match node:
            case Reference(name=name):
                self._after[name] |= after
            case Repeat(item=item):
                self._visit(item, after | self._begin(item)[0])
            case Choice(options=options):
                for option in options:
                    self._visit(option, after)
            case _:
                for item in reversed(children(node)):
                    self._visit(item, after)
                    chars, nullable = self._begin(item)
                    after = chars | after if nullable else chars


def _union(bits: Iterable[int]) -> int:
    union = 0
    for some in bits:
        union |= some
    return union

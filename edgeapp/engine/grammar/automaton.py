"""The joint automaton of several terminals, to see where one ends while another could go on. Pure.

Glushkov's construction: a state is the set of characters of the terminals that have just been read. Sets are
bits of an integer, both of positions and of characters; characters that no terminal tells apart are one bit.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from edgeapp.engine.grammar.tree import Chars, Choice, Node, Ranges, Repeat, children, walk

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

MAX_POSITIONS = 4096
MAX_STEPS = 200_000
"""Some tenths of a second; beyond it the terminals are not worth the time."""


class TooLarge(Exception):
    """The automaton is too large to be looked at."""


class Positions:
    """Every character of every terminal, and which may come after which."""

    def __init__(self, terminals: Mapping[str, Node]) -> None:
        self._bounds = _bounds(terminals.values())
        self.chars: list[int] = []
        self.follow: list[int] = []
        self.owner: list[str] = []
        self.first: dict[str, int] = {}
        self.last: dict[str, int] = {}
        for name, node in terminals.items():
            _, self.first[name], self.last[name] = self._add(node, name)

    def first_chars(self, name: str) -> int:
        chars = 0
        for position in bits(self.first[name]):
            chars |= self.chars[position]
        return chars

    def _add(self, node: Node, name: str) -> tuple[bool, int, int]:
        """Add `node`; return whether it may be empty, its first and its last positions."""
        match node:
            case Chars(ranges=ranges):
                return False, *self._add_chars(ranges, name)
            case Repeat():
                return self._add_repeat(node, name)
            case Choice(options=options):
                nullable, first, last = False, 0, 0
                for option in options:
                    empty, begin, end = self._add(option, name)
                    nullable, first, last = nullable or empty, first | begin, last | end
                return nullable, first, last
            case _:
                return self._add_sequence(children(node), name)

    def _add_chars(self, ranges: Ranges, name: str) -> tuple[int, int]:
        position = len(self.chars)
        if position >= MAX_POSITIONS:
            raise TooLarge
        self.chars.append(self._atoms(ranges))
        self.follow.append(0)
        self.owner.append(name)
        return 1 << position, 1 << position

    def _add_sequence(self, items: tuple[Node, ...], name: str) -> tuple[bool, int, int]:
        nullable, first, last = True, 0, 0
        for item in items:
            empty, begin, end = self._add(item, name)
            self._link(last, begin)
            first |= begin if nullable else 0
            last = end | last if empty else end
            nullable = nullable and empty
        return nullable, first, last

    def _add_repeat(self, repeat: Repeat, name: str) -> tuple[bool, int, int]:
        """Write the copies out: those that must be there, then those that may, or one that loops."""
        at_most = max(repeat.at_least, 1) if repeat.at_most is None else repeat.at_most
        nullable, first, last = True, 0, 0
        end = 0
        for copy in range(at_most):
            empty, begin, end = self._add(repeat.item, name)
            optional = empty or copy >= repeat.at_least
            self._link(last, begin)
            first |= begin if nullable else 0
            last = end | last if optional else end
            nullable = nullable and optional
            if repeat.at_most is None and copy == at_most - 1:
                self._link(end, begin)
        return nullable, first, last

    def _link(self, before: int, after: int) -> None:
        for position in bits(before):
            self.follow[position] |= after

    def _atoms(self, ranges: Ranges) -> int:
        """Return the bits of the characters; `_bounds` holds where each bit's characters begin."""
        atoms = 0
        for low, high in ranges:
            start, end = bisect_left(self._bounds, low), bisect_left(self._bounds, high + 1)
            atoms |= (1 << end) - (1 << start)
        return atoms


class Automaton:
    """The states that reading any of the terminals can lead to."""

    def __init__(self, positions: Positions) -> None:
        self._positions = positions
        self._n_steps = 0

    def states(self) -> Iterator[tuple[list[str], list[tuple[str, int]]]]:
        """Yield for each state in which a terminal ends: which end, and what would lengthen which.

        Raise `TooLarge`.
        """
        seen: set[int] = set()
        start = 0
        for first in self._positions.first.values():
            start |= first
        pending = list(self._successors(start))
        while pending:
            state = pending.pop()
            if state in seen:
                continue
            seen.add(state)
            after = self._after(state)
            ended = [name for name, last in self._positions.last.items() if last & state]
            if ended and after:
                yield ended, [(self._positions.owner[p], self._positions.chars[p]) for p in bits(after)]
            pending += self._successors(after)

    def _after(self, state: int) -> int:
        after = 0
        for position in bits(state):
            after |= self._positions.follow[position]
        return after

    def _successors(self, candidates: int) -> set[int]:
        """Return the states that one more character leads to."""
        by_atom: dict[int, int] = {}
        for position in bits(candidates):
            chars = self._positions.chars[position]
            self._n_steps += chars.bit_count()
            if self._n_steps > MAX_STEPS:
                raise TooLarge
            for atom in bits(chars):
                by_atom[atom] = by_atom.get(atom, 0) | 1 << position
        return set(by_atom.values())


def bits(number: int) -> Iterator[int]:
    """Yield the indices of the bits that are set."""
    while number:
        lowest = number & -number
        yield lowest.bit_length() - 1
        number ^= lowest


def _bounds(nodes: Iterable[Node]) -> list[int]:
    bounds: set[int] = set()
    for node in nodes:
        for part in walk(node):
            if isinstance(part, Chars):
                bounds |= {low for low, _ in part.ranges} | {high + 1 for _, high in part.ranges}
    return sorted(bounds)

"""Read a grammar character by character, and count what it holds against the caps."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from edgeapp.errors import GrammarError

if TYPE_CHECKING:
    from collections.abc import Iterator

# Caps. Every recursion here and in native code is as deep as the nesting, every table as long as the nodes.
MAX_DEPTH = 64
MAX_NODES = 4096
MAX_REPEAT = 4096
_HEX = frozenset("0123456789abcdefABCDEF")
_DIGITS = frozenset("0123456789")


class Reader:
    """A text, a position in it, and the budget that is left. `subject` names the text in errors."""

    def __init__(self, text: str, *, subject: str) -> None:
        self.text = text
        self.position = 0
        self._subject = subject
        self._depth = 0
        self._n_nodes = 0

    @property
    def here(self) -> str:
        """The next character, empty at the end."""
        return self.text[self.position : self.position + 1]

    def take(self, expected: str) -> bool:
        """Skip `expected` if it comes next."""
        found = self.text.startswith(expected, self.position)
        if found:
            self.position += len(expected)
        return found

    def next_char(self) -> str:
        char = self.here
        if not char:
            self.fail("ends too early")
        self.position += 1
        return char

    def fail(self, what: str) -> NoReturn:
        line = self.text.count("\n", 0, self.position) + 1
        column = self.position - (self.text.rfind("\n", 0, self.position) + 1) + 1
        raise GrammarError(f"The {self._subject} {what} (line {line}, column {column}).")

    def count_node(self) -> None:
        self._n_nodes += 1
        if self._n_nodes > MAX_NODES:
            self.fail(f"has more than {MAX_NODES} elements")

    @contextmanager
    def nested(self) -> Iterator[None]:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self.fail(f"is nested more than {MAX_DEPTH} levels deep")
        yield
        self._depth -= 1

    def number(self) -> int | None:
        """Read a repetition count; None when there is no digit."""
        start = self.position
        while self.here in _DIGITS and self.here:
            self.position += 1
        digits = self.text[start : self.position]
        if not digits:
            return None
        # int() of a very long text is slow, and longer than the cap is too large anyway.
        if len(digits) > len(str(MAX_REPEAT)) + 1 or int(digits) > MAX_REPEAT:
            self.fail(f"repeats something {digits[:12]} times, the most is {MAX_REPEAT}")
        return int(digits)

    def hexadecimal(self, n_digits: int) -> int:
        digits = self.text[self.position : self.position + n_digits]
        if len(digits) < n_digits or not _HEX.issuperset(digits):
            self.fail(f"needs {n_digits} hexadecimal digits here")
        self.position += n_digits
        return int(digits, 16)

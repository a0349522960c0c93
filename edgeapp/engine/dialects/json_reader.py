"""Follow a JSON object that arrives in pieces, and pass a call's arguments on at once.

The end of an object is found by counting braces outside strings, so a marker inside an argument ends nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from edgeapp.engine.dialects.pieces import CallPiece, Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_HEADER_CHARS = 1024
"""A name and what stands before the arguments is shorter than this, or it is no call."""

_STRUCTURE = re.compile(r'["\\{}\[\]]')


class JsonScanner:
    """Finds the end of a JSON object or list that arrives in pieces."""

    def __init__(self, depth: int = 0) -> None:
        self._depth = depth
        self._in_string = False
        self._escaped_at = -1
        self._n_seen = 0

    def feed(self, text: str) -> int:
        """Return where in `text` the outermost bracket closes (behind it), or -1."""
        base, self._n_seen = self._n_seen, self._n_seen + len(text)
        for found in _STRUCTURE.finditer(text):
            if base + found.start() == self._escaped_at:
                continue
            if self._turn(found.group(), base + found.start()):
                return found.end()
        return -1

    def _turn(self, char: str, at: int) -> bool:
        if char == "\\":
            self._escaped_at = at + 1
        elif char == '"':
            self._in_string = not self._in_string
        elif not self._in_string:
            self._depth += 1 if char in "{[" else -1
            return self._depth <= 0
        return False


class JsonReader:
    """Steps through a call; a step returns whether the next one can go on with what has arrived."""

    def __init__(self, opened: str, closes: Sequence[str]) -> None:
        self._opened = opened
        self._closes = closes
        self._text = ""
        self._pieces: list[CallPiece] = []
        self._given_back = ""
        self._is_done = False
        self._step: Callable[[], bool]
        self._scanner = JsonScanner()

    def read(self, text: str) -> Reading:
        self._text += text
        while not self._is_done and self._step():
            pass
        return self._reading()

    def finish(self) -> Reading:
        if not self._is_done:
            self._end()
        self._is_done = True
        return self._reading()

    def _reading(self) -> Reading:
        pieces, self._pieces = tuple(self._pieces), []
        if not self._is_done:
            return Reading(pieces=pieces)
        return Reading(pieces=pieces, text=self._given_back, rest=self._text)

    def _end(self) -> None:
        """Take what has arrived for all there is."""
        raise NotImplementedError

    def _fail(self, raw: str) -> bool:
        self._given_back, self._is_done = raw, True
        return False

    def _begin_arguments(self, name: str, after: Callable[[], bool]) -> bool:
        self._pieces.append(CallPiece(name=name))
        self._scanner = JsonScanner()
        self._after_arguments = after
        self._step = self._arguments
        return True

    def _arguments(self) -> bool:
        end = self._scanner.feed(self._text)
        text, self._text = (self._text, "") if end < 0 else (self._text[:end], self._text[end:])
        if text:
            self._pieces.append(CallPiece(arguments=text))
        if end < 0:
            return False
        self._step = self._after_arguments
        return True

    def _closing(self) -> bool:
        """Skip the closing markers, of which any may be missing."""
        text = self._text.lstrip()
        while self._closes:
            close = next((at for at, close in enumerate(self._closes) if text.startswith(close)), -1)
            if close >= 0:
                text = text[len(self._closes[close]) :].lstrip()
                self._closes = self._closes[close + 1 :]
            elif any(close.startswith(text) for close in self._closes):
                self._text = text
                return False
            else:
                break
        self._text, self._is_done = text, True
        return False

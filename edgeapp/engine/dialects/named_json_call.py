"""Tool calls that are a name between markers, followed by arguments in JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.engine.dialects.json_reader import MAX_HEADER_CHARS, JsonReader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class NamedJsonCall(JsonReader):
    """A name, `head_end`, then the arguments: `search[ARGS]{…}`.

    `name_of` finds the name in the text before `head_end`, or None where it is no call.
    """

    def __init__(
        self,
        opened: str,
        *,
        head_end: str,
        closes: Sequence[str] = (),
        name_of: Callable[[str], str | None] = lambda head: head.strip() or None,
    ) -> None:
        super().__init__(opened, closes)
        self._head_end = head_end
        self._name_of = name_of
        self._name = ""
        self._step = self._head

    def _head(self) -> bool:
        end = self._text.find(self._head_end, 0, MAX_HEADER_CHARS)
        if end < 0:
            return len(self._text) >= MAX_HEADER_CHARS and self._fail(self._opened)
        name = self._name_of(self._text[:end])
        if name is None:
            return self._fail(self._opened)
        n_read = end + len(self._head_end)
        self._name, self._opened, self._text = name, self._opened + self._text[:n_read], self._text[n_read:]
        self._step = self._before_arguments
        return True

    def _before_arguments(self) -> bool:
        text = self._text.lstrip()
        if not text:
            return False
        if text[0] != "{":
            return self._fail(self._opened)
        self._text = text
        return self._begin_arguments(self._name, self._begin_closing)

    def _begin_closing(self) -> bool:
        self._step = self._closing
        return True

    def _end(self) -> None:
        if self._step in (self._head, self._before_arguments):
            self._given_back = self._opened
        elif self._step == self._closing:
            self._text = ""

"""Tool calls whose arguments are a JSON object: read as they arrive, the arguments passed on at once.

Two shapes: `{"name": …, "arguments": {…}}`, alone or in a list (`JsonCalls`), and a name between markers
followed by the arguments (`NamedJsonCall`). The end of an object is found by counting braces outside
strings, so a marker inside an argument ends nothing.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from edgeapp.engine.dialects.pieces import CallPiece, Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from edgeapp.protocol import Tool

MAX_HEADER_CHARS = 1024
"""A name and what stands before the arguments is shorter than this, or it is no call."""

_STRUCTURE = re.compile(r'["\\{}\[\]]')
_NAME_KEYS = ("name", "tool_name", "function")
_ARGUMENT_KEYS = ("arguments", "parameters")
_HEADER = re.compile(
    r'\{\s*(?:"(?:type|id|tool_call_id)"\s*:\s*"[^"\\]*"\s*,\s*)*'
    r'"(?:name|tool_name)"\s*:\s*"([^"\\]+)"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)
_FIRST_KEY = re.compile(r'\{\s*"([^"\\]*)"')
_FIRST_KEYS = frozenset({*_NAME_KEYS, *_ARGUMENT_KEYS, "type", "id", "tool_call_id"})


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


class _JsonReader:
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


class JsonCalls(_JsonReader):
    """`{"name": …, "arguments": {…}}` or a list of such objects.

    With `only`, a name outside it makes the object no call: for formats without an opening marker.
    """

    def __init__(
        self,
        opened: str,
        *,
        closes: Sequence[str] = (),
        only: Collection[str] = (),
        keyed: Collection[str] = (),
    ) -> None:
        super().__init__(opened, closes)
        self._only = only
        self._keyed = keyed
        """Names that may stand as the only key: `{"search": {…}}`."""
        self._in_list = False
        self._object = ""
        self._skipped = ""
        self._has_calls = False
        self._step = self._before

    def _before(self) -> bool:
        text = self._text.lstrip()
        if not text:
            return False
        self._opened += self._text[: len(self._text) - len(text)]
        self._text = text
        if text[0] == "[" and not self._in_list:
            self._in_list, self._opened, self._text = True, self._opened + "[", text[1:]
            return True
        if text[0] == "{":
            self._object, self._scanner = "", JsonScanner()
            self._step = self._header
            return True
        if text[0] == "]" and self._has_calls:
            return self._after_object()
        return self._fail(self._opened)

    def _header(self) -> bool:
        end = self._scanner.feed(self._text)
        arrived, rest = (self._text, "") if end < 0 else (self._text[:end], self._text[end:])
        is_new = len(self._object) < MAX_HEADER_CHARS
        self._object += arrived
        self._text = rest
        header = _HEADER.match(self._object[:MAX_HEADER_CHARS]) if is_new else None
        if header and self._is_known(header.group(1)):
            self._text = self._object[header.end() :] + rest
            self._opened, self._has_calls = "", True
            return self._begin_arguments(header.group(1), self._after_arguments_of_object)
        if self._is_hopeless(header):
            return self._no_call()
        return end >= 0 and self._whole_object()

    def _no_call(self) -> bool:
        """Give the object back; where no marker announced it, its inside is read like any other text."""
        if self._only:
            self._object, self._text = "{", self._object[1:] + self._text
        return self._fail(self._opened + self._object)

    def _is_known(self, name: str) -> bool:
        return not self._only or name in self._only

    def _is_hopeless(self, header: re.Match[str] | None) -> bool:
        """Whether an object that no marker announced is something else, as its beginning tells."""
        if not self._only:
            return False
        first = _FIRST_KEY.match(self._object)
        return header is not None or (first is not None and first.group(1) not in _FIRST_KEYS)

    def _whole_object(self) -> bool:
        """Handle an object whose keys come in another order."""
        call = call_of(self._object, self._keyed)
        if call is None or not self._is_known(call[0]):
            return self._no_call()
        self._pieces += [CallPiece(name=call[0]), CallPiece(arguments=call[1])]
        self._opened, self._has_calls = "", True
        self._step = self._after_object
        return True

    def _after_arguments_of_object(self) -> bool:
        self._scanner = JsonScanner(depth=1)
        self._step = self._rest_of_object
        return True

    def _rest_of_object(self) -> bool:
        """Skip keys behind the arguments; a small model may forget the brace."""
        text = self._text.lstrip()
        if not text and not self._skipped:
            return False
        if not self._skipped and text[0] not in ",}":
            self._step = self._after_object
            return True
        end = self._scanner.feed(self._text)
        self._skipped += self._text if end < 0 else self._text[:end]
        self._text = "" if end < 0 else self._text[end:]
        if len(self._skipped) > MAX_HEADER_CHARS:
            self._text = self._skipped[MAX_HEADER_CHARS:] + self._text
            return self._fail(self._skipped[:MAX_HEADER_CHARS])
        if end < 0:
            return False
        self._skipped, self._step = "", self._after_object
        return True

    def _after_object(self) -> bool:
        text = self._text.lstrip()
        if self._in_list and not text:
            return False
        if self._in_list and text[0] == ",":
            self._text, self._step = text[1:], self._before
            return True
        if self._in_list and text[0] == "]":
            self._text = text[1:]
        self._step = self._closing
        return True

    def _closing(self) -> bool:
        if self._closes and not self._only and self._text.lstrip().startswith("{"):
            self._step = self._before  # several objects between the markers, without a list
            return True
        return super()._closing()

    def _end(self) -> None:
        if self._step == self._header:
            self._given_back = self._opened + self._object
        elif self._step == self._before and not self._has_calls:
            self._given_back = self._opened
        elif self._step == self._rest_of_object:
            self._given_back = self._skipped
        elif self._step == self._closing:
            self._text = ""


class NamedJsonCall(_JsonReader):
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


def tool_names(tools: Sequence[Tool]) -> frozenset[str]:
    return frozenset(tool.name for tool in tools)


def call_of(text: str, keyed: Collection[str] = ()) -> tuple[str, str] | None:
    """Return name and arguments of a call that is one JSON object, or None."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    if len(value) == 1 and (key := next(iter(value))) in keyed and isinstance(value[key], dict):
        return key, _dump(value[key])
    if isinstance(inner := value.get("function"), dict):
        value = inner
    name = next((value[key] for key in _NAME_KEYS if isinstance(value.get(key), str)), "")
    arguments = _arguments(next((value[key] for key in _ARGUMENT_KEYS if key in value), {}))
    return (name, arguments) if name and arguments is not None else None


def _arguments(value: Any) -> str | None:
    """Return an arguments object as text; some models write it as a string of JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value or "{}")
        except (ValueError, RecursionError):
            return None
    if value is None:
        value = {}
    return _dump(value) if isinstance(value, dict) else None


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)

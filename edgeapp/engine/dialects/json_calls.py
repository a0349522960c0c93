"""Tool calls that are JSON objects with name and arguments, alone or in a list."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from edgeapp.engine.dialects.json_reader import MAX_HEADER_CHARS, JsonReader, JsonScanner
from edgeapp.engine.dialects.pieces import CallPiece

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from edgeapp.protocol import Tool

_NAME_KEYS = ("name", "tool_name", "function")
_ARGUMENT_KEYS = ("arguments", "parameters")
_HEADER = re.compile(
    r'\{\s*(?:"(?:type|id|tool_call_id)"\s*:\s*"[^"\\]*"\s*,\s*)*'
    r'"(?:name|tool_name)"\s*:\s*"([^"\\]+)"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)
_FIRST_KEY = re.compile(r'\{\s*"([^"\\]*)"')
_FIRST_KEYS = frozenset({*_NAME_KEYS, *_ARGUMENT_KEYS, "type", "id", "tool_call_id"})


class JsonCalls(JsonReader):
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

"""The parser of every family that puts markers around thoughts and calls.

Text that is no marker is passed on at once, except for white space where a call may follow it: the space
between an answer and its calls is nobody's text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.engine.answer_text import Markers
from edgeapp.engine.dialects.pieces import CallPiece, Piece, Reading, TextPart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.engine.dialects.dialect import CallReader, Reasoning, ToolFormat
    from edgeapp.protocol import Channel, Tool


class MarkerParser:
    """Feed text with `push`. Which markers count depends on where the text stands: see `_markers`."""

    def __init__(
        self,
        *,
        reasoning: Reasoning | None,
        format_: ToolFormat | None,
        tools: Sequence[Tool],
        in_reasoning: bool,
    ) -> None:
        self._reasoning = reasoning
        self._format = format_
        self._tools = tools
        self._channel: Channel = "reasoning" if in_reasoning else "answer"
        self._reader: CallReader | None = None
        self._text = ""
        """Arrived, not passed on."""
        self._spaces = ""
        """White space that is passed on only when text of the same channel follows."""
        self._strips_spaces = in_reasoning
        self._has_answer = False
        self._has_calls = False
        self._pieces: list[Piece] = []
        answering = {*format_.openers, *format_.silent, format_.section} if format_ else set()
        thinking: set[str] = set()
        if reasoning:
            answering |= reasoning.silent
            thinking = {reasoning.close}
            if format_ and format_.ends_reasoning:
                thinking |= {*format_.openers, format_.section}
        starting = answering | ({reasoning.open} if reasoning else set())
        anywhere = reasoning is not None and reasoning.anywhere
        self._starting, self._thinking = Markers(starting), Markers(thinking)
        self._answering = self._starting if anywhere else Markers(answering)

    @property
    def in_answer(self) -> bool:
        return self._channel == "answer"

    def push(self, text: str) -> list[Piece]:
        self._text += text
        while self._step():
            pass
        return self._taken()

    def finish(self) -> list[Piece]:
        while self._reader or self._text:
            reader, self._reader = self._reader, None
            if reader:
                self._absorb(reader.finish())
            else:
                text, self._text = self._text, ""
                self._pass_on(text)
        if self._spaces and not (self._has_calls and self._channel == "answer"):
            self._pieces.append(TextPart(self._channel, self._spaces))
        self._spaces = ""
        return self._taken()

    def _taken(self) -> list[Piece]:
        pieces, self._pieces = self._pieces, []
        return pieces

    # One step --------------------------------------------------------------------------------------------

    def _step(self) -> bool:
        """Handle the next marker or the text before it; False when nothing can be done without more text."""
        if self._reader:
            text, self._text = self._text, ""
            return self._absorb(self._reader.read(text))
        if self._begins_bare():
            return True
        markers = self._markers()
        found = markers.find(self._text)
        if found is None:
            n_shown = len(self._text) - self._n_held(markers)
            text, self._text = self._text[:n_shown], self._text[n_shown:]
            self._pass_on(text)
            return False
        before, marker = self._text[: found.start()], found.group()
        if before.strip() and markers is self._starting and markers is not self._answering:
            # The answer has begun, so a marker that opens a thought is text from here on.
            self._text = self._text[len(before) :]
            self._pass_on(before)
            return True
        self._text = self._text[found.end() :]
        self._pass_on(before)
        self._meet(marker)
        return True

    def _markers(self) -> Markers:
        if self._channel == "reasoning":
            return self._thinking
        return self._answering if self._has_answer else self._starting

    def _n_held(self, markers: Markers) -> int:
        n_held = markers.n_held(self._text)
        if markers is self._starting and self._text[: len(self._text) - n_held].strip():
            return self._answering.n_held(self._text)
        return n_held

    def _begins_bare(self) -> bool:
        """Open a reader where a call may begin without a marker: at the `{` that begins an answer."""
        bare = self._format.bare if self._format else None
        if not bare or self._channel == "reasoning" or self._has_answer:
            return False
        if not self._text.lstrip().startswith("{"):
            return False
        self._reader = bare("", self._tools)
        return True

    def _meet(self, marker: str) -> None:
        reasoning, format_ = self._reasoning, self._format
        if format_ and self._channel == "reasoning" and marker in {*format_.openers, format_.section}:
            self._turn("answer")
        if format_ and (opener := format_.openers.get(marker)):
            self._reader = opener(marker, self._tools)
        elif reasoning and marker == reasoning.open:
            self._turn("reasoning")
        elif reasoning and marker == reasoning.close:
            self._turn("answer")
        else:
            self._strips_spaces = True

    def _turn(self, channel: Channel) -> None:
        if self._spaces and channel == "reasoning" and self._has_answer:
            self._pieces.append(TextPart("answer", self._spaces))
        self._spaces = ""
        self._channel = channel
        self._strips_spaces = True

    # Passing on ------------------------------------------------------------------------------------------

    def _absorb(self, reading: Reading) -> bool:
        if reading.pieces:
            self._spaces, self._has_calls = "", True
            self._pieces.extend(reading.pieces)
        if reading.text:
            self._pass_on(reading.text)
        if reading.rest is None:
            return False
        self._reader = None
        self._text = reading.rest + self._text
        self._strips_spaces = self._strips_spaces or not reading.text
        return True

    def _pass_on(self, text: str) -> None:
        if self._strips_spaces:
            text = text.lstrip()
        if not text:
            return
        self._strips_spaces = False
        text = self._spaces + text
        holds_spaces = self._channel == "reasoning" or self._format is not None or not self._has_answer
        shown = text.rstrip() if holds_spaces else text
        self._spaces = text[len(shown) :]
        if shown:
            self._has_answer = self._has_answer or self._channel == "answer"
            self._pieces.append(TextPart(self._channel, shown))


def calls(name: str, arguments: str) -> tuple[CallPiece, ...]:
    """Return a whole call as its two pieces."""
    return CallPiece(name=name), CallPiece(arguments=arguments)

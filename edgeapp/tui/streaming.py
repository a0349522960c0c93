"""One answer as it arrives: the thought, then the text, in few writes. Knows widgets, no engine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from edgeapp.tui.pacing import PacedText
from edgeapp.tui.widgets.thought import Thought
from edgeapp.tui.widgets.transcript import Answer

if TYPE_CHECKING:
    from textual.widget import Widget

    from edgeapp.tui.widgets.transcript import Transcript

WRITE_INTERVAL_S = 0.1
"""Between two writes of a streaming answer: ten a second look fluent and cost little."""


class StreamingAnswer:
    """Stands in the transcript behind the widget `after`, else at its end."""

    def __init__(self, transcript: Transcript, *, after: Widget | None) -> None:
        self.answer = Answer()
        self.thought: Thought | None = None
        self._transcript = transcript
        self._text = PacedText(self.answer.append, interval_s=WRITE_INTERVAL_S)
        self._thinking: PacedText | None = None
        self._thinking_since_s = 0.0
        self._thought_s = 0.0
        self._n_thought_tokens = 0
        transcript.mount(self.answer, after=after)

    def think(self, text: str, *, n_tokens: int) -> None:
        """Show a piece of the thought; the answer has `n_tokens` so far."""
        if self.thought is None:
            self.thought = Thought()
            self._transcript.mount(self.thought, before=self.answer)
        if self._thinking is None:
            self._thinking = PacedText(self.thought.append, interval_s=WRITE_INTERVAL_S)
            self._thinking_since_s = time.monotonic()
        self._n_thought_tokens = n_tokens
        self._thinking.feed(text)

    def write(self, text: str) -> None:
        """Show a piece of the answer."""
        self._end_thought()
        self._text.feed(text)

    def finish(self) -> None:
        """Write what is left."""
        self._end_thought()
        self._text.finish()

    def close(self) -> Widget | None:
        """Take away what stayed empty; return the last widget that is left."""
        if self.answer.source:
            return self.answer
        self.answer.remove()
        return self.thought

    def _end_thought(self) -> None:
        if self.thought is not None and self._thinking is not None:
            self._thinking.finish()
            self._thinking = None
            self._thought_s += time.monotonic() - self._thinking_since_s
            self.thought.fold(thought_s=self._thought_s, n_tokens=self._n_thought_tokens)

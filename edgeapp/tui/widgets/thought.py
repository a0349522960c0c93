"""What a model thought before it answered: written out while it arrives, then folded into one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.content import Content
from textual.reactive import reactive
from textual.widgets import Static

from edgeapp.tui import wording

if TYPE_CHECKING:
    from textual import events

_MAX_STREAMED_CHARS = 1500
"""While it arrives only the end is shown: laying out all of a long thought ten times a second is slow."""


class Thought(Static):
    """Folded it is one line with the figures; a click unfolds it."""

    is_folded: reactive[bool] = reactive(default=False, layout=True)

    def __init__(self) -> None:
        super().__init__(markup=False)
        self._pieces: list[str] = []
        self._title = wording.THINKING
        self.is_over = False

    @property
    def source(self) -> str:
        return "".join(self._pieces)

    def append(self, text: str) -> None:
        self._pieces.append(text)
        self._show()

    def fold(self, *, thought_s: float, n_tokens: int) -> None:
        """The thought is over, after so many seconds and tokens."""
        self._title = wording.thought(thought_s, n_tokens)
        self.is_over = True
        self.is_folded = True
        self._show()

    def on_click(self, event: events.Click) -> None:
        event.stop()
        if self.is_over:
            self.is_folded = not self.is_folded

    def watch_is_folded(self) -> None:
        self._show()

    def _show(self) -> None:
        mark = "▸" if self.is_folded else "▾"
        self.update(Content(f"{mark} {self._title}" + ("" if self.is_folded else f"\n{self._shown_text()}")))

    def _shown_text(self) -> str:
        text = self.source.strip()
        if self.is_over or len(text) <= _MAX_STREAMED_CHARS:
            return text
        # From a word on, so that a word does not lose its beginning.
        return "… " + text[-_MAX_STREAMED_CHARS:].partition(" ")[2]

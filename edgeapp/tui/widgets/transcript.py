"""The conversation as it is shown: messages, answers and notes in one scrolling column.

Text here was typed by the user or cleaned by the client; none of it is read as markup.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from textual.containers import VerticalScroll
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Static

from edgeapp.tui.markdown import MarkdownDocument

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.geometry import Size
    from textual.selection import Selection

NoteKind = Literal["info", "notice", "error", "ending"]


class UserMessage(Static):
    def __init__(self, text: str) -> None:
        super().__init__(text, markup=False)


class Note(Static):
    """A line from the application itself: what happened, and under it what can be done."""

    def __init__(self, text: str, *, hint: str = "", kind: NoteKind = "info") -> None:
        super().__init__(f"{text}\n{hint}" if hint else text, markup=False, classes=f"-{kind}")


class Answer(Widget):
    """One streaming answer in Markdown."""

    def __init__(self) -> None:
        super().__init__()
        self._document = MarkdownDocument()
        self.n_writes = 0

    @property
    def source(self) -> str:
        return self._document.source

    def append(self, text: str) -> None:
        height = len(self._lines(self.content_size.width))
        self.n_writes += 1
        self._document.append(text)
        grown = len(self._lines(self.content_size.width)) != height
        self.refresh(layout=grown)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:  # noqa: ARG002
        return len(self._lines(width))

    def render_line(self, y: int) -> Strip:
        width = self.content_size.width
        lines = self._lines(width)
        strip = lines[y] if y < len(lines) else Strip.blank(0)
        strip = self._with_selection(strip, y).adjust_cell_length(width)
        return strip.apply_style(self.rich_style).apply_offsets(0, y)

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        text = "\n".join(line.text.rstrip() for line in self._lines(self.content_size.width))
        return selection.extract(text), "\n"

    def selection_updated(self, selection: Selection | None) -> None:  # noqa: ARG002 - Textual's signature
        self.refresh()

    def _lines(self, width: int) -> Sequence[Strip]:
        return self._document.lines(width=width, dark=self.app.current_theme.dark) if width else ()

    def _with_selection(self, strip: Strip, y: int) -> Strip:
        selection = self.text_selection
        span = selection.get_span(y) if selection is not None else None
        if span is None:
            return strip
        start = min(span[0], strip.cell_length)
        end = strip.cell_length if span[1] < 0 else min(span[1], strip.cell_length)
        style = self.screen.get_component_rich_style("screen--selection")
        before, inside, after = strip.crop(0, start), strip.crop(start, end), strip.crop(end)
        return Strip.join([before, inside.apply_style(style), after])


class Transcript(VerticalScroll, can_focus=False):
    """Stays at the bottom while text arrives, unless the user has scrolled up."""

    def on_mount(self) -> None:
        self.anchor()

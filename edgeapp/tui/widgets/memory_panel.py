"""Memory and running engines as a picture. Shows what it is given and decides nothing.

Fits any place: `edgeapp top` gives it the screen, the chat a part of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget

from edgeapp.tui.memory_view import MemoryView, memory_lines, natural_height

if TYPE_CHECKING:
    from textual.geometry import Size


class MemoryPanel(Widget):
    """Set `view`. With `height: auto` it takes the rows that it needs, else it leaves out the least."""

    view: reactive[MemoryView | None] = reactive[MemoryView | None](None, layout=True)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:  # noqa: ARG002
        return natural_height(self.view, width) if self.view is not None else 1

    def render(self) -> Content:
        if self.view is None:
            return Content("reading memory")
        lines = memory_lines(self.view, width=self.size.width, height=self.size.height or None)
        return Content("\n").join([Content.assemble(*line) for line in lines])

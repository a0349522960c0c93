"""The one-row lines around the conversation: title, activity and status. They show and decide nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget

from edgeapp.tui import wording
from edgeapp.tui.wording import Figures, State

if TYPE_CHECKING:
    from edgeapp.protocol import Progress

_MAX_BAR_CELLS = 40
_STATE_STYLES: dict[State, str] = {
    "loading": "$text-warning",
    "ready": "$text-success",
    "answering": "$text-accent",
    "stopping": "$text-warning",
    "released": "$text-muted",
    "down": "$text-error",
    "failed": "$text-error",
}


class TitleLine(Widget):
    """The model at the left, the state at the right."""

    state: reactive[State] = reactive[State]("loading")

    def __init__(self, title: str, subtitle: str) -> None:
        super().__init__()
        self._title = title
        self._subtitle = subtitle

    def render(self) -> Content:
        state = Content.assemble(("● ", _STATE_STYLES[self.state]), wording.STATES[self.state])
        left = Content.assemble((self._title, "bold"), (f"  {self._subtitle}", "dim"))
        room = max(self.size.width - state.cell_length - 1, 0)
        return Content("").join([left.truncate(room, ellipsis=True, pad=True), Content(" "), state])


class ActivityLine(Widget):
    """What the engine is doing, with a bar while it can say how far it is; empty when it does nothing."""

    text: reactive[str] = reactive("")
    fraction: reactive[float] = reactive(-1.0)

    def show_progress(self, event: Progress) -> None:
        self.text = wording.progress(event)
        self.fraction = event.fraction

    def show_text(self, text: str) -> None:
        self.text = text
        self.fraction = -1.0

    def render(self) -> Content:
        if self.fraction < 0:
            return Content(self.text)
        room = self.size.width - len(self.text) - 2
        filled, empty = wording.bar(self.fraction, min(room, _MAX_BAR_CELLS))
        return Content.assemble(self.text, "  ", (filled, "$primary"), (empty, "dim"))


class StatusLine(Widget):
    """Key hints at the left, or a passing message instead; figures at the right."""

    state: reactive[State] = reactive[State]("loading")
    flash: reactive[str] = reactive("")
    figures: reactive[Figures] = reactive(Figures())

    def render(self) -> Content:
        left = (self.flash,) if self.flash else wording.hints(self.state)
        return Content(wording.status_line(left, self.figures, self.size.width))

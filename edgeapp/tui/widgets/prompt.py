"""The input: a text area that grows with its text. Knows keys, not what becomes of a submitted text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea

from edgeapp.cleantext import clean

if TYPE_CHECKING:
    from textual import events

_NEWLINE_KEYS = frozenset({"shift+enter", "alt+enter", "ctrl+j"})


class Prompt(TextArea):
    """Enter submits; Shift+Enter, Alt+Enter and Ctrl+J start a new line; a paste never submits."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+d", "delete_or_leave", show=False),
        Binding("pageup", "scroll_chat(-1)", show=False),
        Binding("pagedown", "scroll_chat(1)", show=False),
    ]

    @dataclass
    class Submitted(Message):
        text: str

    class Leave(Message):
        """Ctrl+D on an empty input."""

    @dataclass
    class ScrollChat(Message):
        """Page Up (-1) or Page Down (1)."""

        pages: int

    def __init__(self) -> None:
        super().__init__(
            soft_wrap=True,
            show_line_numbers=False,
            tab_behavior="focus",
            highlight_cursor_line=False,
            placeholder="Send a message (/help for help)",
            id="prompt",
        )
        # A blinking cursor wakes the process twice a second for as long as the chat is open.
        self.cursor_blink = False
        self._history: list[str] = []
        self._shown_at = 0
        """Position of the recalled message in `_history`; its length when none is recalled."""

    async def _on_key(self, event: events.Key) -> None:
        if event.key == "enter":
            event.stop()
            event.prevent_default()
            self._submit()
        elif event.key in _NEWLINE_KEYS:
            event.stop()
            event.prevent_default()
            self._replace_via_keyboard("\n", *self.selection)

    async def _on_paste(self, event: events.Paste) -> None:
        """Insert the text without control characters; terminals paste a line end as a carriage return."""
        event.stop()
        event.prevent_default()
        text = event.text.replace("\r\n", "\n").replace("\r", "\n")
        self._replace_via_keyboard(clean(text), *self.selection)

    def put_back(self, text: str) -> None:
        """Place `text` before whatever is being typed."""
        self.load_text(f"{text}\n{self.text}" if self.text else text)
        self.move_cursor(self.document.end)

    def set_aside(self) -> None:
        """Clear the input; Up brings its text back."""
        self._remember(self.text)
        self.load_text("")

    def action_cursor_up(self, select: bool = False) -> None:  # noqa: FBT001, FBT002 - Textual's signature
        if self._may_recall() and self._shown_at > 0:
            self._recall(self._shown_at - 1)
        else:
            super().action_cursor_up(select)

    def action_cursor_down(self, select: bool = False) -> None:  # noqa: FBT001, FBT002 - Textual's signature
        if self._may_recall() and self._shown_at < len(self._history):
            self._recall(self._shown_at + 1)
        else:
            super().action_cursor_down(select)

    def _may_recall(self) -> bool:
        """Only an empty input, or a recalled message that was not changed, gives way to another one."""
        shown = self._history[self._shown_at] if self._shown_at < len(self._history) else ""
        return self.text == shown

    def _recall(self, position: int) -> None:
        self._shown_at = position
        self.load_text(self._history[position] if position < len(self._history) else "")
        self.move_cursor(self.document.end)

    def _remember(self, text: str) -> None:
        if not self._history or self._history[-1] != text:
            self._history.append(text)
        self._shown_at = len(self._history)

    def action_delete_or_leave(self) -> None:
        if self.text:
            self.action_delete_right()
        else:
            self.post_message(self.Leave())

    def action_scroll_chat(self, pages: int) -> None:
        self.post_message(self.ScrollChat(pages))

    def _submit(self) -> None:
        text = self.text
        if text.strip():
            self._remember(text)
            self.load_text("")
            self.post_message(self.Submitted(text))

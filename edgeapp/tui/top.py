"""The screen of `edgeapp top`: memory of all devices and the engines that run, live.

One widget shows everything; here are the keys and the help.
"""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Static

from edgeapp.tui.widgets.live_memory import LiveMemory

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeapp.monitor.overview import Overview

HELP = """\
One bar for each memory, by what holds it:
  █ weights   ▓ KV cache   ▒ compute buffers   ▚ driver's context for us
  ▞ other programs   ░ in use, nobody says by whom   · free   × lost
  RAM: █ engines   ▒ weights in the file cache, which can be dropped
Below a bar: how much was in use in the last minutes.
Experts, one cell for each layer:  █ on the GPU   ▒ partly   ░ in RAM

  p      pause and go on
  ?      this text, and away again
  q      quit"""

_KEYS = "q quit · p pause · ? help"
_PAUSED_KEYS = "paused · p go on · q quit"


class TopApp(App[None]):
    """`run()` returns when the user leaves. `look` is called in a thread every `interval_s`."""

    CSS_PATH = "top.tcss"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,ctrl+c,ctrl+q", "quit", show=False, priority=True),
        Binding("p,space", "pause", show=False),
        Binding("question_mark,h", "help", show=False),
        Binding("escape", "close_help", show=False),
    ]

    def __init__(self, look: Callable[[], Overview], *, interval_s: float, theme: str = "") -> None:
        super().__init__()
        self._wanted_theme = theme
        self.panel = LiveMemory(look, interval_s=interval_s)
        self.help = Static(HELP, markup=False, id="help")
        self.keys = Static(_KEYS, markup=False, id="keys")

    def compose(self) -> ComposeResult:
        yield self.panel
        yield self.help
        yield self.keys

    def on_mount(self) -> None:
        self.help.display = False
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.exit)
        if self._wanted_theme in self.available_themes:
            self.theme = self._wanted_theme

    def action_pause(self) -> None:
        self.panel.is_paused = not self.panel.is_paused
        self.keys.update(_PAUSED_KEYS if self.panel.is_paused else _KEYS)

    def action_help(self) -> None:
        self.help.display = not self.help.display

    def action_close_help(self) -> None:
        self.help.display = False

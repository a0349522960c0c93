"""A chat with a scripted engine in a headless terminal, for the tests beside this file."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from edgeapp.protocol import Sampling
from edgeapp.session import ChatSettings
from edgeapp.tui.app import ChatApp
from edgeapp.tui.widgets.transcript import Answer, Note, UserMessage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from textual.pilot import Pilot

    from tests.scripted_engine import ScriptedEngine


def make_app(
    engine: ScriptedEngine, *, theme: str = "", prepare: Callable[[], Awaitable[None]] | None = None
) -> ChatApp:
    settings = ChatSettings(sampling=Sampling(temp=0.0))
    return ChatApp(engine, settings, title="demo model", subtitle="scripted", theme=theme, prepare=prepare)


class Chat:
    """What a user does and sees."""

    def __init__(self, app: ChatApp, pilot: Pilot[None]) -> None:
        self.app = app
        self.pilot = pilot

    async def type_and_send(self, text: str) -> None:
        self.app.prompt.load_text(text)
        await self.pilot.press("enter")

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)

    async def until(self, condition: Callable[[], object]) -> None:
        for _ in range(500):
            if condition():
                return
            await self.pilot.pause(0.01)
        raise AssertionError("the screen never got there:\n" + self.screen())

    async def until_state(self, state: str) -> None:
        await self.until(lambda: self.app.title_line.state == state)

    async def until_answered(self, n: int = 1) -> None:
        await self.until(lambda: len(self.answers()) >= n and self.app.title_line.state == "ready")

    def answers(self) -> list[str]:
        return [answer.source for answer in self.app.query(Answer)]

    def user_messages(self) -> list[str]:
        return [str(message.content) for message in self.app.query(UserMessage)]

    def notes(self) -> str:
        return "\n".join(str(note.content) for note in self.app.query(Note))

    def screen(self) -> str:
        """Return the characters on the screen."""
        app = self.app
        rows = app.screen._compositor.render_strips()
        return "\n".join(row.text for row in rows)


@asynccontextmanager
async def open_chat(
    engine: ScriptedEngine, *, size: tuple[int, int] = (80, 24), theme: str = ""
) -> AsyncIterator[Chat]:
    app = make_app(engine, theme=theme)
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        yield Chat(app, pilot)

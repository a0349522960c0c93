"""Write a picture of the chat: `python -m tests.tui.screenshot docs/chat.svg`.

The conversation is made up and the figures are those of its script; the title says so.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from edgeapp.protocol import Sampling
from edgeapp.session import ChatSettings
from edgeapp.tui.app import ChatApp
from tests.scripted_engine import ScriptedEngine
from tests.tui import conversation
from tests.tui.chat_pilot import Chat

SIZE_CELLS = (100, 30)


async def draw() -> str:
    """Return the chat after two answers as SVG."""
    engine = ScriptedEngine(load_steps=conversation.LOAD, answers=conversation.answers())
    app = ChatApp(
        engine, ChatSettings(sampling=Sampling()), title="demo model", subtitle="a scripted conversation"
    )
    async with app.run_test(size=SIZE_CELLS) as pilot:
        chat = Chat(app, pilot)
        for n, question in enumerate((conversation.FIRST_QUESTION, conversation.SECOND_QUESTION), start=1):
            await chat.type_and_send(question)
            await chat.until_answered(n)
        await pilot.pause()
        return app.export_screenshot(title="edgeapp run", simplify=True)


def main() -> None:
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(asyncio.run(draw()), encoding="utf-8")


if __name__ == "__main__":
    main()

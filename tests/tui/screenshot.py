"""Write a picture of the chat: `python -m tests.tui.screenshot docs/chat.svg`.

The demo model really answers, greedily, and the figures are those of this machine.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from edgeapp import catalog
from edgeapp.protocol import Load, Sampling
from edgeapp.runtime.worker_client import WorkerClient
from edgeapp.session import ChatSettings
from edgeapp.tui.app import ChatApp
from tests.tui.chat_pilot import Chat

SIZE_CELLS = (100, 30)
QUESTIONS = (
    "Write a Python one-liner that reverses a string.",
    "Explain what a neural network is in two sentences.",
)


async def draw() -> str:
    """Return the chat after its answers as SVG."""
    model = catalog.resolve(None, offline=True)
    engine = WorkerClient(Load(id=0, path=str(model.path), n_ctx=8192, n_threads=2))
    settings = ChatSettings(sampling=Sampling(temp=0))
    app = ChatApp(engine, settings, title=model.name, subtitle=model.licence)
    async with app.run_test(size=SIZE_CELLS) as pilot:
        chat = Chat(app, pilot)
        for n, question in enumerate(QUESTIONS, start=1):
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

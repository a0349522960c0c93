"""Run by `test_abrupt_ends`: write to a history for ever and say on stdout what is certainly kept."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from edgeapp.history import conversations, deletions, open_history, tree
from edgeapp.history.answer_writer import begin_answer
from edgeapp.protocol import Message


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())
    time.sleep(0.001)  # SQLite's lock is not fair: who writes without a pause starves all others


def main(file: Path, mark: str) -> None:
    database = open_history(file).database
    conversation = conversations.new(database, title=mark)
    ticks = iter(range(1_000_000))
    say("ready")
    for number in range(1_000_000):
        tree.append(database, conversation.id, Message(role="user", content=f"{mark}-{number} " + 300 * "x"))
        say(f"{mark}-{number}")
        # Every piece finds that a second has gone by, so every one is written.
        writer = begin_answer(database, conversation.id, monotonic_s=lambda: float(next(ticks)))
        for piece in range(3):
            writer.add(f"{mark}-{number}-{piece} " + 300 * "y" + " ")
            say(f"{mark}-{number}-{piece}")
        writer.finish("complete")
        if number % 5 == 0:
            deletions.delete_message(database, tree.edit(database, writer.message_id, "gone").id)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

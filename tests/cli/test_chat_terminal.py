"""The chat in a real terminal: tmux runs it, types, and reads the screen."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import uuid
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.cli.processes import COMMAND, assert_gone, edgeapp, wait_for, workers_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Terminal:
    """One tmux server with one window of 100 × 30."""

    def __init__(self, *arguments: str | Path) -> None:
        self._socket = f"edgeapp-test-{uuid.uuid4().hex[:8]}"
        command = shlex.join([*COMMAND, *map(str, arguments)])
        environment = [f"-e{name}={os.environ[name]}" for name in ("EDGEAPP_HOME", "HF_HUB_OFFLINE")]
        # The shell stays and shows the exit status, so that a test can see how the chat ended.
        self._tmux(
            "-f", "/dev/null", "new-session", "-d", "-x", "100", "-y", "30", *environment,
            f"{command}; echo ENDED with $?; exec sh",
        )  # fmt: skip
        self.shell_pid = int(self._tmux("list-panes", "-F", "#{pane_pid}"))

    def _tmux(self, *arguments: str) -> str:
        return subprocess.run(
            ["tmux", "-L", self._socket, *arguments], check=True, capture_output=True, text=True, timeout=20
        ).stdout

    def keys(self, *keys: str) -> None:
        self._tmux("send-keys", *keys)

    def type(self, text: str) -> None:
        self._tmux("send-keys", "-l", text)

    def screen(self) -> str:
        return self._tmux("capture-pane", "-p")

    def wait_for(self, text: str) -> None:
        wait_for(lambda: text in self.screen(), what=f"{text!r} on the screen:\n{self.screen()}")

    def chat_process(self) -> psutil.Process:
        """Return the process of `edgeapp run` itself."""
        found = [p for p in psutil.Process(self.shell_pid).children() if "edgeapp" in " ".join(p.cmdline())]
        return found[0]

    def close(self) -> None:
        subprocess.run(["tmux", "-L", self._socket, "kill-server"], check=False, capture_output=True)


@pytest.fixture
def chat(demo_model: Path) -> Iterator[Terminal]:
    """A chat with the demo model, loaded and ready."""
    terminal = Terminal("run", demo_model, "--temp", "0")
    try:
        terminal.wait_for("ready")
        yield terminal
    finally:
        terminal.close()


def test_a_message_is_answered_and_the_footer_shows_the_speed(chat: Terminal) -> None:
    chat.type("Write one sentence about the sea.")
    chat.keys("Enter")
    chat.wait_for("tok/s ·")
    chat.wait_for("ready")
    assert "Write one sentence about the sea." in chat.screen()
    chat.keys("C-q")
    chat.wait_for("ENDED with 0")
    listed = edgeapp("history", "list").stdout
    assert "Write one sentence about the sea." in listed


def test_escape_stops_an_answer_and_the_chat_goes_on(chat: Terminal) -> None:
    chat.type("Tell me a very long story about a ship.")
    chat.keys("Enter")
    chat.wait_for("tok/s ·")
    chat.keys("Escape")
    chat.wait_for("stopped")
    chat.type("Say hello.")
    chat.keys("Enter")
    chat.wait_for("Say hello.")
    chat.wait_for("ready")


def test_a_killed_engine_is_told_and_the_next_message_is_answered(chat: Terminal) -> None:
    (worker,) = workers_of(chat.chat_process().pid)
    worker.kill()
    chat.wait_for("engine was killed")
    chat.type("Say hello.")
    chat.keys("Enter")
    chat.wait_for("tok/s ·")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_signal_to_the_chat_leaves_no_process_behind(chat: Terminal, number: signal.Signals) -> None:
    process = chat.chat_process()
    everyone = [process, *workers_of(process.pid)]
    assert len(everyone) == 2
    process.send_signal(number)
    assert_gone(everyone)


def test_closing_the_terminal_leaves_no_process_behind(chat: Terminal) -> None:
    process = chat.chat_process()
    everyone = [process, *workers_of(process.pid)]
    chat.close()
    assert_gone(everyone)


def test_control_c_stops_an_answer_and_leaves_the_engine_alone(chat: Terminal) -> None:
    (worker,) = workers_of(chat.chat_process().pid)
    chat.type("Tell me a very long story about a ship.")
    chat.keys("Enter")
    chat.wait_for("tok/s ·")
    chat.keys("C-c")
    chat.wait_for("stopped")
    assert worker.is_running()
    assert worker.status() != psutil.STATUS_ZOMBIE


def test_a_model_of_the_catalog_says_what_it_is() -> None:
    terminal = Terminal("run", "smollm2-135m")
    try:
        terminal.wait_for("The dense model that the demo is made of")
    finally:
        terminal.close()

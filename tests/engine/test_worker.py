"""The worker process by itself: it speaks the protocol and ends when nobody needs it any more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil
import pytest

from edgeapp import protocol
from edgeapp.protocol import (
    AnyEvent,
    Cancel,
    Delta,
    Done,
    Failed,
    Generate,
    Heartbeat,
    Hello,
    Load,
    Loaded,
    Message,
    Sampling,
    Shutdown,
)
from edgeapp.runtime.supervisor import worker_command
from tests.cli.processes import assert_gone, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WORKER = worker_command()


class Worker:
    """A worker with nothing but pipes around it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [*WORKER, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def send(self, request: protocol.Request) -> None:
        self.send_line(protocol.encode(request))

    def send_line(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line)
        self.process.stdin.flush()

    def until(self, *kinds: type[AnyEvent]) -> AnyEvent:
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            event = protocol.decode_event(line)
            if isinstance(event, kinds):
                return event
        raise AssertionError("the worker has ended")

    def answer_endlessly(self, model: Path) -> None:
        """Load the model and come back in the middle of an answer."""
        self.send(Load(id=1, path=str(model), n_ctx=8192, n_threads=1))
        self.until(Loaded)
        self.send(Generate(id=2, messages=(Message(role="user", content="Hello"),), ignore_eos=True))
        self.until(Delta)


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    try:
        yield worker
    finally:
        worker.process.kill()
        with suppress(BrokenPipeError), worker.process:
            pass  # closes the pipes and waits


def test_it_says_hello_with_its_versions_and_devices(worker: Worker) -> None:
    hello = worker.until(Hello)
    assert isinstance(hello, Hello)
    assert hello.protocol_version == protocol.PROTOCOL_VERSION
    assert hello.pid == worker.process.pid
    assert [device.kind for device in hello.devices].count("cpu") == 1
    assert all(device.total_bytes > 0 for device in hello.devices)


def test_a_shutdown_ends_it_with_status_0_even_while_it_answers(worker: Worker, demo_model: Path) -> None:
    worker.answer_endlessly(demo_model)
    worker.send(Shutdown(id=3))
    assert worker.process.wait(timeout=20) == 0


def test_the_end_of_its_input_ends_it_while_it_answers(worker: Worker, demo_model: Path) -> None:
    worker.answer_endlessly(demo_model)
    assert worker.process.stdin is not None
    worker.process.stdin.close()
    assert_gone([psutil.Process(worker.process.pid)])


def test_its_parents_death_ends_it_although_its_input_stays_open() -> None:
    reader, writer = os.pipe()
    starter = (
        "import os, subprocess, sys, time;"
        f"p = subprocess.Popen([*{WORKER!r}, str(os.getpid())], stdin={reader}, stdout=subprocess.DEVNULL);"
        "print(p.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", starter], stdout=subprocess.PIPE, pass_fds=[reader]
    ) as parent:
        assert parent.stdout is not None
        orphan = psutil.Process(int(parent.stdout.readline()))
        wait_for(lambda: orphan.num_threads() > 1, what="the worker serves")  # its reader thread runs
        parent.send_signal(signal.SIGKILL)
    assert_gone([orphan])
    os.close(reader)
    os.close(writer)


def test_a_worker_whose_parent_is_dead_already_ends_at_once() -> None:
    done = subprocess.run([*WORKER, "1"], stdin=subprocess.PIPE, capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, b"")


def test_control_c_in_the_terminal_does_not_end_it(worker: Worker) -> None:
    worker.until(Hello)
    worker.process.send_signal(signal.SIGINT)
    worker.send(Generate(id=1, messages=()))
    assert isinstance(worker.until(Failed), Failed)


@pytest.mark.parametrize(
    "line", [b"not json\n", b'{"type":"load"}\n', b'{"type":"fly","id":1}\n', b"\xff\xfe\n"]
)
def test_a_line_that_is_no_request_is_answered_with_an_error(worker: Worker, line: bytes) -> None:
    worker.send_line(line)
    failed = worker.until(Failed)
    assert isinstance(failed, Failed)
    assert failed.code == "protocol"


def test_a_cancel_of_something_long_finished_does_not_disturb_the_next_answer(
    worker: Worker, tiny_moe: Path
) -> None:
    worker.send(Load(id=1, path=str(tiny_moe), n_ctx=256, n_threads=1))
    worker.until(Loaded)
    for number in range(10, 20):
        worker.send(Cancel(id=100 + number, target=number - 1))
        message = Message(role="user", content="Hello")
        worker.send(Generate(id=number, messages=(message,), max_tokens=4, ignore_eos=True))
        done = worker.until(Done, Failed)
        assert isinstance(done, Done)
        assert (done.finish_reason, done.usage.completion_tokens) == ("length", 4)


def test_deltas_do_not_flood_the_front_end(worker: Worker, tiny_moe: Path) -> None:
    worker.send(Load(id=1, path=str(tiny_moe), n_ctx=512, n_threads=1))
    worker.until(Loaded)
    started_s = time.monotonic()
    worker.send(
        Generate(id=2, messages=(Message(role="user", content="Hi"),), max_tokens=300, ignore_eos=True)
    )
    n_deltas = 0
    while isinstance(worker.until(Delta, Done), Delta):
        n_deltas += 1
    assert n_deltas <= 2 + 15 * (time.monotonic() - started_s) < 300


def test_it_imports_nothing_from_the_folder_the_user_is_in(tmp_path: Path) -> None:
    (tmp_path / "msgspec.py").write_text("open('ran', 'w').close()")
    (tmp_path / "jinja2.py").write_text("open('ran', 'w').close()")
    done = subprocess.run(
        worker_command(), cwd=tmp_path, input=b"", capture_output=True, timeout=30, check=True
    )
    assert isinstance(protocol.decode_event(done.stdout.splitlines()[0]), Hello)
    assert not (tmp_path / "ran").exists()


def test_tokens_without_text_still_show_that_the_worker_lives(worker: Worker, tiny_moe: Path) -> None:
    worker.send(Load(id=1, path=str(tiny_moe), n_ctx=8192, n_threads=1))
    worker.until(Loaded)
    # A stop string that begins with everything holds all text back.
    worker.send(Generate(id=2, prompt="Hello", ignore_eos=True, sampling=Sampling(temp=0), stop=("\0" * 9,)))
    assert isinstance(worker.until(Heartbeat, Delta), Heartbeat | Delta)
    worker.send(Cancel(id=3, target=2))
    assert isinstance(worker.until(Done), Done)

"""One llama-server with given options: how fast it reads and writes, and whether it lives through it."""

from __future__ import annotations

import json
import os
import random
import socket
import string
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

START_TIMEOUT_S = 300.0
ANSWER_TIMEOUT_S = 600.0
N_ANSWER = 64
_OUT_OF_MEMORY = ("out of memory", "failed to allocate", "unable to allocate", "cudaMalloc failed")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One prompt's speeds in tokens per second; `event` says what went wrong, empty when nothing did."""

    n_prompt: int
    prefill_tps: float = 0.0
    decode_tps: float = 0.0
    event: str = ""


def serve(
    command: Sequence[str], prompts: Sequence[int], *, log: Path, environment: dict[str, str]
) -> list[Run]:
    """Start the server, send a prompt of each length, end it. A death ends the list with its event."""
    port = _free_port()
    full = [*command, "--port", str(port), "--host", "127.0.0.1", "--no-ui"]
    with (
        log.open("wb") as file,
        subprocess.Popen(full, stdout=file, stderr=file, env=os.environ | environment) as process,
    ):
        try:
            return list(_runs(process, port, prompts, log))
        finally:
            process.kill()


def _runs(process: subprocess.Popen[bytes], port: int, prompts: Sequence[int], log: Path) -> Iterator[Run]:
    if not _is_ready(process, port):
        yield Run(n_prompt=0, event=f"did not load: {_reason(log)}")
        return
    _ask(port, 32, n_answer=4)  # the first request pays for what is allocated lazily
    for n_prompt in prompts:
        try:
            timings = _ask(port, n_prompt, n_answer=N_ANSWER)
        except (OSError, urllib.error.URLError, ConnectionError, KeyError) as problem:
            yield Run(n_prompt=n_prompt, event=_reason(log) if process.poll() is not None else str(problem))
            if process.poll() is not None:
                return
            continue
        yield Run(
            n_prompt=n_prompt,
            prefill_tps=timings["prompt_per_second"],
            decode_tps=timings["predicted_per_second"],
        )


def _ask(port: int, n_prompt: int, *, n_answer: int) -> dict[str, float]:
    """Return the server's own timings for a prompt of random letters, one token each."""
    draw = random.Random(n_prompt)  # noqa: S311 - a benchmark's filler
    body = {
        "prompt": "".join(draw.choices(string.ascii_letters, k=n_prompt)),
        "n_predict": n_answer,
        "temperature": 0,
        "cache_prompt": False,
        "ignore_eos": True,
    }
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/completion",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=ANSWER_TIMEOUT_S) as answer:  # noqa: S310 - our own server
        said: dict[str, Any] = json.load(answer)
    timings: dict[str, float] = said["timings"]
    return timings


def _is_ready(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                return True
        except OSError:
            time.sleep(0.2)
    return False


def _reason(log: Path) -> str:
    said = log.read_text("utf-8", "replace")
    return "out of memory" if any(sign in said for sign in _OUT_OF_MEMORY) else said[-200:].strip()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

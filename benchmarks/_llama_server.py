"""The peer: llama-server, built from the same source, spoken to over HTTP as its users do."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks._engines import peer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from edgeapp.protocol import Message

START_TIMEOUT_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One streamed answer as its reader saw it. Times are seconds."""

    ttft_s: float
    total_s: float
    n_tokens: int
    n_prompt: int
    text: str


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def llama_server(model: Path, *options: str, threads: int) -> Iterator[int]:
    """Run llama-server on `model`; yield its port."""
    port = _free_port()
    command = [
        str(peer("llama-server")), "-m", str(model), "-t", str(threads), "-tb", str(threads),
        "--port", str(port), "--host", "127.0.0.1", "--no-ui", *options,
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_until_ready(port, process)
            yield port
        finally:
            process.terminate()


def _wait_until_ready(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise SystemExit("llama-server did not start")


async def chat(port: int, messages: Sequence[Message], *, max_tokens: int, **options: Any) -> Answered:
    """Stream one answer from `/v1/chat/completions`, greedily."""
    body = {
        "messages": [{"role": message.role, "content": message.content} for message in messages],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **options,
    }
    started_s = time.perf_counter()
    first_s, text = 0.0, ""
    usage: dict[str, int] = {}
    async for event in _events(port, json.dumps(body).encode()):
        usage = event.get("usage") or usage
        piece = "".join(choice["delta"].get("content") or "" for choice in event.get("choices", ()))
        if piece and not first_s:
            first_s = time.perf_counter()
        text += piece
    return Answered(
        ttft_s=first_s - started_s,
        total_s=time.perf_counter() - started_s,
        n_tokens=usage["completion_tokens"],
        n_prompt=usage["prompt_tokens"],
        text=text,
    )


async def _events(port: int, body: bytes) -> Any:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    try:
        async for line in reader:
            if line.startswith(b"data: {"):
                yield json.loads(line[6:])
            elif line.startswith(b"data: [DONE]"):
                return
    finally:
        writer.close()

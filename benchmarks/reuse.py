"""What is already known is not computed again: a growing chat, and a preset's second start.

Turn 10 of a chat against llama-server with its cache, the same conversation, alternating turns; target: the
time to the first token is at most llama-server's. Then a preset of about 1,000 tokens: the first word of its
first start, and of a second start in a new process, which finds the preset's KV on disk.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from typing import TYPE_CHECKING

from benchmarks._engines import client, demo_model, machine, n_threads, ratio, row
from benchmarks._llama_server import chat, llama_server
from benchmarks.parallel import WORDS
from edgeapp.protocol import Delta, Done, Generate, Message, Sampling

if TYPE_CHECKING:
    from edgeapp.runtime.worker_client import WorkerClient

N_CHATS = 6
N_TURNS = 10
N_GENERATED = 24
N_CTX = 4096


def _say(seed: int, n_words: int) -> str:
    draw = random.Random(seed)  # noqa: S311 - a benchmark's filler
    return f"{seed}: " + " ".join(draw.choices(WORDS, k=n_words))


async def _ours(engine: WorkerClient, request: Generate) -> tuple[float, str]:
    """Return the time to the first piece of text, and the text."""
    started_s, first_s, text = time.perf_counter(), 0.0, ""
    async for event in engine.generate(request):
        match event:
            case Delta():
                first_s = first_s or time.perf_counter() - started_s
                text += event.text
            case Done():
                return first_s, text
            case _:
                pass
    raise AssertionError("the answer did not end")


async def growing_chat() -> None:
    model, threads = demo_model(), n_threads()
    our_s: list[float] = []
    their_s: list[float] = []
    async with client(model, threads, n_ctx=N_CTX) as engine:
        with llama_server(model, "-np", "1", "-c", str(N_CTX), threads=threads) as port:
            for chat_number in range(N_CHATS):
                ours, theirs = await _one_chat(engine, port, chat_number)
                our_s.append(ours)
                their_s.append(theirs)
    row(f"llama-server, TTFT of turn {N_TURNS}", their_s, "s")
    row(f"edgeapp, TTFT of turn {N_TURNS}", our_s, "s")
    ratio("edgeapp / llama-server", our_s, their_s)


async def _one_chat(engine: WorkerClient, port: int, number: int) -> tuple[float, float]:
    ours: list[Message] = []
    theirs: list[Message] = []
    our_s = their_s = 0.0
    for turn in range(N_TURNS):
        message = Message(role="user", content=_say(100 * number + turn, 40))
        ours.append(message)
        theirs.append(message)
        request = Generate(
            messages=tuple(ours), sampling=Sampling(temp=0), max_tokens=N_GENERATED, ignore_eos=True
        )
        # Whoever comes second is faster or slower than the first: they take turns.
        if turn + number & 1:
            our_s, text = await _ours(engine, request)
        answered = await chat(port, theirs, max_tokens=N_GENERATED, ignore_eos=True)
        if not turn + number & 1:
            our_s, text = await _ours(engine, request)
        their_s = answered.ttft_s
        ours.append(Message(role="assistant", content=text))
        theirs.append(Message(role="assistant", content=answered.text))
    return our_s, their_s


async def preset_start() -> None:
    model, threads = demo_model(), n_threads()
    first: list[float] = []
    second: list[float] = []
    for number in range(N_CHATS):
        system = Message(role="system", content=_say(7000 + number, 550))
        with tempfile.TemporaryDirectory() as folder:
            for start_s, question in ((first, "Who are you?"), (second, "What do you do?")):
                request = Generate(
                    messages=(system, Message(role="user", content=question)),
                    sampling=Sampling(temp=0),
                    max_tokens=2,
                    n_prefix_messages=1,
                )
                async with client(model, threads, n_ctx=2048, prefix_folder=folder) as engine:
                    start_s.append((await _ours(engine, request))[0])
    row("preset, TTFT of the first start", first, "s")
    row("preset, TTFT of the second start", second, "s")
    ratio("second / first", second, first)


async def main() -> None:
    machine()
    await growing_chat()
    await preset_start()


if __name__ == "__main__":
    asyncio.run(main())

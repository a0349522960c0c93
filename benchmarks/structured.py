"""Decode speed of an answer held to a JSON schema, against no constraint and against llama-server's.

Same model, same threads, greedy, alternating runs, without drafts. The schema asks for more text than is
decoded, so each answer has the same number of tokens. Targets: 0.9 of unconstrained, and not slower than
llama-server.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from benchmarks._engines import answer_tps, client, demo_model, machine, n_threads, ratio, row
from benchmarks._llama_server import chat, llama_server
from edgeapp.protocol import Drafting, Generate, Grammar, Message, Sampling

if TYPE_CHECKING:
    from edgeapp.runtime.worker_client import WorkerClient

N_PAIRS = 7
N_TOKENS = 128
MESSAGES = (Message(role="user", content="List twenty people with their age, job and a sentence on each."),)
SCHEMA: dict[str, Any] = {
    "type": "array",
    "minItems": 20,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 3},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "job": {"enum": ["cook", "doctor", "pilot", "teacher"]},
            "about": {"type": "string", "minLength": 20},
        },
        "required": ["name", "age", "job", "about"],
        "additionalProperties": False,
    },
}


async def _decode_tps(engine: WorkerClient, grammar: Grammar | None) -> float:
    request = Generate(
        messages=MESSAGES,
        sampling=Sampling(temp=0),
        grammar=grammar,
        max_tokens=N_TOKENS,
        ignore_eos=grammar is None,
        drafting=Drafting(mode="off"),
    )
    return (await answer_tps(engine, request))[0]


async def _server_tps(port: int) -> float:
    response_format = {"type": "json_schema", "json_schema": {"name": "people", "schema": SCHEMA}}
    answer = await chat(port, MESSAGES, max_tokens=N_TOKENS, response_format=response_format)
    return (answer.n_tokens - 1) / (answer.total_s - answer.ttft_s)


async def main() -> None:
    model, threads = demo_model(), n_threads()
    grammar = Grammar(kind="json_schema", source=json.dumps(SCHEMA))
    machine()
    free: list[float] = []
    held: list[float] = []
    server: list[float] = []
    with llama_server(model, "-c", "1024", "-np", "1", threads=threads) as port:
        async with client(model, threads) as engine:
            await _decode_tps(engine, grammar)
            await _server_tps(port)
            for _ in range(N_PAIRS):
                free.append(await _decode_tps(engine, None))
                held.append(await _decode_tps(engine, grammar))
                server.append(await _server_tps(port))
    row("edgeapp, no constraint", free, "tok/s")
    row("edgeapp, JSON schema", held, "tok/s")
    row("llama-server, JSON schema", server, "tok/s")
    ratio("JSON schema / no constraint", held, free)
    ratio("edgeapp / llama-server, JSON schema", held, server)


if __name__ == "__main__":
    asyncio.run(main())

"""A worker that decodes nothing and emits tokens at a fixed pace: `python FILE TOKENS_PER_S PARENT_PID`.

All running answers together get that many tokens a second, written as the engine writes them: tokens of one
answer that come within `DELTA_INTERVAL_S` are one event. It ends at the end of its input.
"""

from __future__ import annotations

import os
import sys
import threading
import time

from edgeapp import protocol
from edgeapp.protocol import Delta, Done, Event, Generate, Hello, Load, Loaded, Timings, Usage

DELTA_INTERVAL_S = 1 / 15  # edgeapp.engine
WORD = " token"  # of the usual length


def main() -> None:
    tokens_per_s = float(sys.argv[1])
    running: list[Generate] = []
    _emit(
        Hello(
            protocol_version=protocol.PROTOCOL_VERSION, pid=0, binding_version="", system_info="", devices=()
        )
    )
    threading.Thread(target=_pace, args=(running, tokens_per_s), daemon=True).start()
    for line in sys.stdin.buffer:
        match protocol.decode_request(line):
            case Load(id=number, n_ctx=n_ctx):
                _emit(
                    Loaded(
                        id=number, n_ctx=n_ctx, n_ctx_train=n_ctx, n_vocab=1, n_threads=1, template="gguf",
                        load_s=0.0, model_desc="paced",
                    )
                )  # fmt: skip
            case Generate() as request:
                running.append(request)


def _pace(running: list[Generate], tokens_per_s: float) -> None:
    """Give every answer a token in each step, as a batch does."""
    written: dict[int, int] = {}
    decoded: dict[int, int] = {}
    next_s: dict[int, float] = {}
    while True:
        time.sleep(max(1, len(running)) / tokens_per_s)
        now_s = time.perf_counter()
        for request in tuple(running):
            n_tokens = decoded[request.id] = decoded.get(request.id, 0) + 1
            if now_s >= next_s.get(request.id, 0.0) or n_tokens == request.max_tokens:
                n_new = n_tokens - written.get(request.id, 0)
                _emit(Delta(id=request.id, text=n_new * WORD, n_tokens=n_tokens, n_ctx_used=n_tokens))
                written[request.id], next_s[request.id] = n_tokens, now_s + DELTA_INTERVAL_S
            if n_tokens == request.max_tokens:
                running.remove(request)
                _emit(_done(request.id, n_tokens))


def _done(number: int, n_tokens: int) -> Done:
    return Done(
        id=number,
        finish_reason="length",
        usage=Usage(prompt_tokens=1, completion_tokens=n_tokens, cached_tokens=0),
        timings=Timings(load_s=0.0, ttft_s=0.0, prompt_tps=0.0, decode_tps=0.0),
        n_ctx=n_tokens,
        n_ctx_used=n_tokens,
    )


def _emit(event: Event) -> None:
    os.write(1, protocol.encode(event))


if __name__ == "__main__":
    main()

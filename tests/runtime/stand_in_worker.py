"""A worker process with faults that the real one cannot be made to have, and made-up answers.

`python FILE FAULT FOLDER PARENT_PID` starts it. Each start writes the requests that it got to a file of its
own in FOLDER, so that a test can see what every worker was told.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from msgspec.structs import replace

from edgeapp import protocol
from edgeapp.protocol import (
    AdapterLoaded,
    AdapterUnloaded,
    AnyRequest,
    Cancel,
    Delta,
    Done,
    Event,
    Failed,
    Generate,
    Hello,
    LiveSet,
    Load,
    LoadAdapter,
    Loaded,
    SetLive,
    Text,
    Timings,
    Tokenize,
    Tokens,
    ToolCallDelta,
    UnloadAdapter,
    Usage,
)

FAULT, FOLDER = sys.argv[1], Path(sys.argv[2])
HELLO = Hello(
    protocol_version=protocol.PROTOCOL_VERSION, pid=0, binding_version="", system_info="", devices=()
)
DONE = Done(
    finish_reason="stop",
    usage=Usage(prompt_tokens=1, completion_tokens=1, cached_tokens=0),
    timings=Timings(load_s=0.0, ttft_s=0.0, prompt_tps=0.0, decode_tps=0.0),
    n_ctx=8,
    n_ctx_used=2,
)
LOADED = Loaded(
    n_ctx=8, n_ctx_train=8, n_vocab=8, n_threads=1, template="gguf", load_s=0.0, model_desc="a \x1bmodel"
)


def main() -> None:
    requests = FOLDER / f"{len(list(FOLDER.iterdir()))}.jsonl"
    emit(HELLO)
    with requests.open("ab") as log:
        for line in sys.stdin.buffer:
            log.write(line)
            log.flush()
            serve(protocol.decode_request(line))


def serve(request: AnyRequest) -> None:
    match request:
        case Load():
            load(request)
        case Generate():
            generate(request.id)
        case LoadAdapter(name="lost") if n_starts() > 1:
            emit(Failed(id=request.id, code="model_not_found", message="It is gone."))
        case LoadAdapter(name=name):
            emit(AdapterLoaded(id=request.id, name=name))
        case UnloadAdapter(name=name):
            emit(AdapterUnloaded(id=request.id, name=name))
        case SetLive():
            emit(LiveSet(id=request.id))
        case Tokenize():
            emit(Tokens(id=request.id, ids=(1,)))
        case Cancel():
            pass
        case _:
            emit(Text(id=request.id, text=""))


def n_starts() -> int:
    return len(list(FOLDER.iterdir()))


def load(request: Load) -> None:
    if FAULT == "aborts without memory" and request.n_ubatch > 128:
        sys.stderr.write("ggml_aligned_malloc: failed to allocate 12345 bytes\n")
        sys.stderr.flush()
        os.abort()
    if FAULT == "always refuses for memory" or (FAULT == "refuses for memory" and request.n_ubatch > 256):
        emit(Failed(id=request.id, code="not_enough_memory", message="The KV cache does not fit."))
        return
    emit(replace(LOADED, id=request.id))


def generate(number: int) -> None:
    match FAULT:
        case "dies of a question":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "dies in a tool call":
            emit(ToolCallDelta(id=number, index=0, name="now", n_tokens=1))
            os.kill(os.getpid(), signal.SIGSEGV)
        case "writes an endless line":
            os.write(1, b"x" * (17 << 20) + b"\n")
        case "leaves a child":
            subprocess.Popen(["/bin/sleep", "20"])
            time.sleep(60)
        case "says one word":
            emit(Delta(id=number, text="well", n_tokens=1))
            return
        case "spins":
            while True:
                pass
        case "escapes":
            emit(Delta(id=number, text="a\x1b[2Jb", channel="reasoning", n_tokens=1))
            emit(ToolCallDelta(id=number, index=0, name="n\x1bow", arguments='{"\x9b": 1}', n_tokens=2))
    emit(replace(DONE, id=number))


def emit(event: Event) -> None:
    os.write(1, protocol.encode(event))


if __name__ == "__main__":
    main()

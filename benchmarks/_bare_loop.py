"""llama_decode and nothing around it, in a process of its own: what is left when our program is taken away.

Reads from stdin how many tokens to decode, and prints the tokens/s: `python -m benchmarks._bare_loop MODEL
THREADS DEPTH`. llama-bench does the same, but is a new process for each run and so cannot take turns often.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgeapp.engine import bindings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@contextmanager
def bare_loop(
    model: Path, threads: int, *, depth: int, environment: dict[str, str]
) -> Iterator[Callable[[int], float]]:
    """Yield a function that decodes so many tokens behind `depth` others and returns the tokens/s."""
    process = subprocess.Popen(
        [sys.executable, "-m", __spec__.name, str(model), str(threads), str(depth)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=os.environ | environment,
    )  # fmt: skip
    assert process.stdin
    assert process.stdout
    asked, told = process.stdin, process.stdout

    def burst(n_tokens: int) -> float:
        asked.write(f"{n_tokens}\n")
        asked.flush()
        return float(told.readline())

    with process:
        yield burst
        asked.close()


def _serve(path: str, n_threads: int, depth: int) -> None:
    bindings.start()
    options = bindings.ModelOptions()
    model = bindings.load_model(path, options, lambda _fraction: True)
    context = bindings.new_context(
        model, bindings.ContextOptions(n_ctx=512, n_batch=512, n_ubatch=512, n_threads=n_threads), abort=None
    )
    batch = bindings.Batch(512)
    for line in sys.stdin:
        bindings.kv_clear(context)
        batch.clear()
        batch.add(list(range(100, 100 + depth)), sequence=0, n_past=0, n_logits=1)
        batch.decode(context)
        n_tokens, started_s = int(line), time.perf_counter()
        for number in range(n_tokens):
            batch.clear()
            batch.add([500 + number], sequence=0, n_past=depth + number, n_logits=1)
            batch.decode(context)
        print(n_tokens / (time.perf_counter() - started_s), flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

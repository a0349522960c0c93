"""How long llama.cpp takes for a batch of k tokens with logits for all of them, as drafts need it.

    python -m benchmarks._batch_steps MODEL THREADS DEPTH MOST    → JSON: seconds for k = 1, 2, …, MOST

A program of its own, so that no second llama.cpp waits in the benchmark's process while another one works.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from edgeapp.engine import bindings
from edgeapp.engine.bindings import Batch, ContextHandle, ContextOptions, ModelOptions

if TYPE_CHECKING:
    from pathlib import Path

N_ROUNDS = 15


def batch_steps_s(model: Path, threads: int, *, depth: int, most: int) -> list[float]:
    """Return the seconds for each size from 1 to `most`, with `depth` tokens in the KV cache."""
    command = [sys.executable, "-m", __name__, str(model), str(threads), str(depth), str(most)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return [float(value) for value in json.loads(printed.stdout)]


def _main(model: str, threads: int, depth: int, most: int) -> None:
    bindings.start()
    options = ModelOptions()
    handle = bindings.load_model(model, options, lambda _fraction: True)
    context = bindings.new_context(
        handle,
        ContextOptions(
            n_ctx=depth + most + 256, n_batch=512, n_ubatch=512, n_threads=threads, n_outputs=most
        ),
        abort=None,
    )
    n_vocab = bindings.vocab_facts(bindings.get_vocab(handle)).n_tokens
    text = [(7919 * index) % n_vocab for index in range(depth + most)]
    batch = Batch(512)
    for start in range(0, depth, 512):
        _decode(context, batch, text[start : min(start + 512, depth)], n_past=start, n_logits=1)
    rounds = [
        [_step_s(context, batch, text[depth : depth + size], depth) for size in range(1, most + 1)]
        for _ in range(N_ROUNDS)
    ]
    print(json.dumps([statistics.median(times) for times in zip(*rounds, strict=True)]))


def _step_s(context: ContextHandle, batch: Batch, tokens: list[int], depth: int) -> float:
    bindings.kv_truncate(context, 0, depth)
    started_s = time.perf_counter()
    _decode(context, batch, tokens, n_past=depth, n_logits=len(tokens))
    return time.perf_counter() - started_s


def _decode(context: ContextHandle, batch: Batch, tokens: list[int], *, n_past: int, n_logits: int) -> None:
    batch.clear()
    batch.add(tokens, sequence=0, n_past=n_past, n_logits=n_logits)
    assert batch.decode(context) == "ok"


if __name__ == "__main__":
    _main(sys.argv[1], *map(int, sys.argv[2:5]))

"""A context of two sequences in this process, to decode in them token by token."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from edgeapp.engine import bindings
from edgeapp.engine.bindings import Batch, ContextHandle, ContextOptions, MemoryKind, ModelOptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

N_CTX = 512


def some_tokens(count: int, *, seed: int = 0) -> list[int]:
    """Return ordinary tokens of a tiny model's vocabulary."""
    random = Random(seed)
    return [random.randrange(20, 1000) for _ in range(count)]


@dataclass(frozen=True, kw_only=True)
class Sequences:
    context: ContextHandle
    n_vocab: int

    @property
    def kind(self) -> MemoryKind:
        return bindings.memory_kind(self.context)

    def decode(self, tokens: Sequence[int], *, n_past: int, sequence: int = 0) -> NDArray[np.float32]:
        """Return the logits of the last of `tokens`."""
        batch = Batch(len(tokens))
        row = batch.add(tokens, sequence=sequence, n_past=n_past, n_logits=1)
        assert batch.decode(self.context) == "ok"
        return np.array(bindings.logits_row(self.context, row, self.n_vocab))

    def greedy(self, tokens: Sequence[int], *, n_past: int, count: int, sequence: int = 0) -> list[int]:
        answer: list[int] = []
        for _ in range(count):
            answer.append(int(self.decode(tokens, n_past=n_past, sequence=sequence).argmax()))
            n_past, tokens = n_past + len(tokens), answer[-1:]
        return answer

    def cold(self, tokens: Sequence[int], *, count: int) -> list[int]:
        """Return the answer to `tokens` from an empty cache, which it leaves empty."""
        bindings.kv_clear(self.context)
        answer = self.greedy(tokens, n_past=0, count=count)
        bindings.kv_clear(self.context)
        return answer

    def first_position(self, sequence: int = 0) -> int:
        return bindings.first_position(self.context, sequence)

    def length(self, sequence: int = 0) -> int:
        return bindings.kv_length(self.context, sequence)


@contextmanager
def two_sequences(path: Path) -> Iterator[Sequences]:
    bindings.start()
    model = bindings.load_model(str(path), ModelOptions(), lambda _fraction: True)
    options = ContextOptions(n_ctx=N_CTX, n_batch=N_CTX, n_ubatch=64, n_threads=1, n_outputs=2, n_sequences=2)
    context = bindings.new_context(model, options, abort=None)
    try:
        n_vocab = bindings.vocab_facts(bindings.get_vocab(model)).n_tokens
        yield Sequences(context=context, n_vocab=n_vocab)
    finally:
        bindings.free_context(context)
        bindings.free_model(model)

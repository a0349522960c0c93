"""A model and a context in this process, for tests of what the engine does to them."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeapp.engine import bindings
from edgeapp.engine.bindings import Batch, ContextHandle, ContextOptions, ModelHandle, ModelOptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

N_CTX = 256


@dataclass(frozen=True, kw_only=True)
class RawModel:
    """An F32 KV cache of one sequence and logits for every token, to compare numbers with."""

    handle: ModelHandle
    context: ContextHandle
    path: Path
    n_vocab: int

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Return [len(tokens), n_vocab], computed from an empty KV cache."""
        bindings.kv_clear(self.context)
        batch = Batch(N_CTX)
        batch.add(tokens, sequence=0, n_past=0, n_logits=len(tokens))
        assert batch.decode(self.context) == "ok"
        rows = (bindings.logits_row(self.context, row, self.n_vocab) for row in range(len(tokens)))
        return np.array([np.array(row) for row in rows])


@contextmanager
def raw_model(path: Path) -> Iterator[RawModel]:
    bindings.start()
    options = ModelOptions()
    handle = bindings.load_model(str(path), options, lambda _fraction: True)
    context_options = ContextOptions(
        n_ctx=N_CTX, n_batch=N_CTX, n_ubatch=N_CTX, n_threads=1, n_outputs=N_CTX, kv_type="f32"
    )
    context = bindings.new_context(handle, context_options, abort=None)
    try:
        n_vocab = bindings.vocab_facts(bindings.get_vocab(handle)).n_tokens
        yield RawModel(handle=handle, context=context, path=path, n_vocab=n_vocab)
    finally:
        bindings.free_context(context)
        bindings.free_model(handle)

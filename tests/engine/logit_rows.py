"""A real context whose logits a test writes, so that it knows what a sampler has to do with them."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeapp.engine import bindings
from edgeapp.engine.bindings import Batch, ContextHandle, ContextOptions, ModelOptions
from edgeapp.engine.model import Vocab

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from edgeapp.engine.bindings import VocabHandle

N_CTX = 512


@dataclass(frozen=True, kw_only=True)
class LogitRow:
    """`row` of `context` has logits [n_vocab]."""

    context: ContextHandle
    row: int
    handle: VocabHandle
    vocab: Vocab

    @property
    def n_vocab(self) -> int:
        return self.vocab.facts.n_tokens

    def values(self) -> NDArray[np.float32]:
        """Return the row itself, not a copy."""
        return np.frombuffer(bindings.logits_row(self.context, self.row, self.n_vocab), dtype=np.float32)

    def write(self, logits: NDArray[np.floating]) -> None:
        self.values()[:] = logits


@contextmanager
def logit_row(path: Path) -> Iterator[LogitRow]:
    """Decode one token of the model at `path` and hand out its logits."""
    with ExitStack() as stack:
        bindings.start()
        options = ModelOptions()
        model = bindings.load_model(str(path), options, lambda _fraction: True)
        stack.callback(bindings.free_model, model)
        sizes = ContextOptions(n_ctx=N_CTX, n_batch=8, n_ubatch=8, n_threads=1)
        context = bindings.new_context(model, sizes, abort=None)
        stack.callback(bindings.free_context, context)
        batch = Batch(8)
        row = batch.add([1], sequence=0, n_past=0, n_logits=1)
        assert batch.decode(context) == "ok"
        handle = bindings.get_vocab(model)
        yield LogitRow(context=context, row=row, handle=handle, vocab=Vocab(handle))

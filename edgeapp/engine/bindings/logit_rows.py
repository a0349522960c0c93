"""A row of a context's logits: samplers draw from it, constraints forbid in it, log probabilities are its."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, cast

from edgeapp.engine.bindings.library import c
from edgeapp.errors import EngineError

if TYPE_CHECKING:
    from edgeapp.engine.bindings.context import ContextHandle


def logits_row(context: ContextHandle, row: int, n_vocab: int) -> memoryview:
    """Return the logits [n_vocab] of batch index `row` as writable float32, valid until the next decode.

    Raise `EngineError` when the last decode computed none for it.
    """
    pointer = c.llama_get_logits_ith(context, row)
    if not pointer:
        raise EngineError(f"The last batch has no logits at index {row}.")
    array = (ctypes.c_float * n_vocab).from_address(ctypes.addressof(pointer.contents))
    return cast("memoryview", memoryview(array).cast("B").cast("f"))

"""A context that computes hidden states: one vector for every token of a batch."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from edgeapp.engine.bindings.context import context_params, created
from edgeapp.engine.bindings.library import c, first_problem
from edgeapp.errors import EngineError

if TYPE_CHECKING:
    from edgeapp.engine.bindings.context import ContextHandle, ContextOptions
    from edgeapp.engine.bindings.weights import ModelHandle


def new_embedding_context(model: ModelHandle, options: ContextOptions) -> ContextHandle:
    """Create a context for `token_vectors`. Raise `NotEnoughMemory` or `EngineError`."""
    params = context_params(options)
    params.embeddings, params.pooling_type = True, c.LLAMA_POOLING_TYPE_NONE
    handle = created(model, params)
    if handle is None:
        raise EngineError(f"llama.cpp could not create a context for embeddings: {first_problem()}.")
    return handle


def token_vectors(context: ContextHandle, n_floats: int) -> memoryview:
    """Return the vectors of the last decode's tokens, row after row; valid until the next one."""
    pointer = c.llama_get_embeddings(context)
    if not pointer:
        raise EngineError("llama.cpp computed no embeddings.")
    return memoryview((ctypes.c_float * n_floats).from_address(ctypes.addressof(pointer.contents))).cast("B")


def embedding_size(model: ModelHandle) -> int:
    """Return how many numbers a token's vector has."""
    return int(c.llama_model_n_embd_out(model))

"""A context that computes hidden states: one vector for every token of a batch."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeapp.engine.bindings.context import ContextHandle, KvType
from edgeapp.engine.bindings.library import c, first_problem, recent_problems
from edgeapp.engine.bindings.weights import load_error
from edgeapp.errors import EngineError, NotEnoughMemory

if TYPE_CHECKING:
    from edgeapp.engine.bindings.weights import ModelHandle


@dataclass(frozen=True, kw_only=True)
class EmbeddingOptions:
    """`n_ctx` tokens of all `n_sequences` together, at most `n_batch` of them in one decode."""

    n_ctx: int
    n_batch: int
    n_sequences: int
    n_threads: int
    kv_type: KvType = "f16"


def new_embedding_context(model: ModelHandle, options: EmbeddingOptions) -> ContextHandle:
    """Create a context for `token_vectors`. Raise `NotEnoughMemory` or `EngineError`."""
    params = c.llama_context_default_params()
    params.n_ctx, params.n_seq_max, params.kv_unified = options.n_ctx, options.n_sequences, True
    params.n_batch = params.n_ubatch = params.n_outputs_max = options.n_batch
    params.n_threads = params.n_threads_batch = options.n_threads
    params.embeddings, params.pooling_type = True, c.LLAMA_POOLING_TYPE_NONE
    if options.kv_type == "f32":
        params.type_k = params.type_v = c.GGML_TYPE_F32
        params.flash_attn_type = c.LLAMA_FLASH_ATTN_TYPE_DISABLED  # the CPU's computes in F16 all the same
    recent_problems.clear()
    handle = c.llama_init_from_model(model, params)
    if handle:
        return ContextHandle(handle)
    problem = load_error()
    if isinstance(problem, NotEnoughMemory):
        raise problem
    raise EngineError(f"llama.cpp could not create a context for embeddings: {first_problem()}.")


def token_vectors(context: ContextHandle, n_floats: int) -> memoryview:
    """Return the vectors of the last decode's tokens, row after row; valid until the next one."""
    pointer = c.llama_get_embeddings(context)
    if not pointer:
        raise EngineError("llama.cpp computed no embeddings.")
    return memoryview((ctypes.c_float * n_floats).from_address(ctypes.addressof(pointer.contents))).cast("B")


def embedding_size(model: ModelHandle) -> int:
    """Return how many numbers a token's vector has."""
    return int(c.llama_model_n_embd_out(model))

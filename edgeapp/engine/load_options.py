"""How a `Load` is carried out: what llama.cpp is told about the weights and the context.

A probe asks by the same rules, so that its answer is true of the load that follows.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeapp.engine.bindings import ContextOptions, ModelOptions

if TYPE_CHECKING:
    from edgeapp.protocol import Load

CTX_STEP = 256  # llama.cpp rounds a context up to this (llama-context.cpp, GGML_PAD(n_ctx, 256))
SPARE_SEQUENCES = 4
"""Conversations that stay in the KV cache beside those that are being answered."""
MIN_STREAMS = 6
DRAFT_ROWS = 15
"""Drafted tokens whose logits one decode can return."""


def model_options(request: Load, *, has_weights: bool = True) -> ModelOptions:
    return ModelOptions(
        device=request.device,
        n_gpu_layers=request.n_gpu_layers,
        tensor_overrides=tuple((wanted.pattern, wanted.buffer) for wanted in request.tensor_overrides),
        load_mode=request.load_mode,
        repack=request.repack,
        has_weights=has_weights,
        replaced=_replaced(request),
    )


def context_options(request: Load, *, can_truncate: bool) -> ContextOptions:
    return ContextOptions(
        n_ctx=_n_cells(request),
        is_unified=is_unified(request),
        n_sequences=n_sequences(request, can_truncate=can_truncate),
        n_batch=_n_ubatch(request),
        n_ubatch=_n_ubatch(request),
        n_threads=request.n_threads,
        n_outputs=n_outputs(request),
        kv_type=request.kv_type,
    )


def n_sequences(request: Load, *, can_truncate: bool) -> int:
    """Every sequence of a recurrent model has memory of its own; those of a KV cache share its cells."""
    can_share = can_truncate and is_unified(request)
    return request.n_parallel + (SPARE_SEQUENCES if can_share else 0)


def is_unified(request: Load) -> bool:
    """One pool of cells, unless it is large enough for a part for each of many answers.

    Masked cells of the others cost time: with 16 answers of 600 tokens a pool decodes 0.74 times the tokens,
    with 4 it is the faster one (measured on two CPU cores).
    """
    return request.n_parallel < MIN_STREAMS or request.n_kv < request.n_parallel * request.n_ctx


def _n_cells(request: Load) -> int:
    if is_unified(request):
        return request.n_kv or request.n_ctx
    return request.n_parallel * padded(request.n_ctx)


def padded(n_ctx: int) -> int:
    return -(-n_ctx // CTX_STEP) * CTX_STEP


def n_outputs(request: Load) -> int:
    """Every token needs logits where activations are collected, or the last layer would skip it."""
    if request.collect:
        return _n_ubatch(request)
    wanted = request.n_outputs or request.n_parallel + DRAFT_ROWS
    return min(max(wanted, request.n_parallel + SPARE_SEQUENCES), _n_ubatch(request))


def _n_ubatch(request: Load) -> int:
    """llama.cpp reserves logits for a token of every sequence (llama-context.cpp, graph_reserve)."""
    return max(request.n_ubatch, request.n_parallel + SPARE_SEQUENCES)


def _replaced(request: Load) -> tuple[tuple[str, int], ...]:
    if not request.n_expert_used:
        return ()
    # The header's parser is needed by nobody else here.
    from edgeapp.engine.expert_override import expert_override

    return (expert_override(Path(request.path), request.n_expert_used),)

"""How many bytes the KV cache takes, exactly as llama.cpp allocates it for our engine. Pure arithmetic.

Sources at llama.cpp 0c1e57098: the constructors of src/llama-kv-cache.cpp (a row per cell and layer),
src/llama-kv-cache-iswa.cpp (window of every sequence + micro-batch, padded) and
src/llama-memory-recurrent.cpp (F32 states, one for each sequence). The engine keeps llama.cpp's default
`swa_full`: layers with a sliding window keep the whole text too, or a conversation could not be cut back.
Flash attention is assumed: without it
values of layers with unequal heads are padded to the widest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeapp.gguf_info import LayerCache
    from edgeapp.placement.shape import ModelShape
    from edgeapp.placement.wishes import KvType

CTX_STEP = 256
"""llama.cpp rounds a context up to this (src/llama-context.cpp, GGML_PAD(n_ctx, 256))."""
SPARE_SEQUENCES = 4
"""Sequences that the engine has besides one for each answer, where they share one pool of cells."""
KV_TYPES: tuple[KvType, ...] = ("f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
"""Largest first."""
_BLOCKS: dict[KvType, tuple[int, int]] = {
    "f16": (1, 2),
    "q8_0": (32, 34),
    "q5_1": (32, 24),
    "q5_0": (32, 22),
    "q4_1": (32, 20),
    "q4_0": (32, 18),
}
"""Values and bytes of a block (ggml/src/ggml-common.h)."""
_F32_BYTES = 4


def padded_ctx(n_ctx: int) -> int:
    """Return `n_ctx` as llama.cpp rounds it."""
    return -(-n_ctx // CTX_STEP) * CTX_STEP


def can_store(shape: ModelShape, kv_type: KvType) -> bool:
    """Tell whether every head is whole blocks; llama.cpp refuses the type otherwise."""
    block_values, _ = _BLOCKS[kv_type]
    return all(head_dim % block_values == 0 for head_dim in shape.head_dims)


def layer_cache_bytes(
    shape: ModelShape,
    *,
    n_ctx: int,
    n_ubatch: int,
    kv_type: KvType,
    n_parallel: int,
    swa_full: bool = True,
) -> list[int]:
    """Return the bytes of each layer; `n_ctx` cells are shared by all sequences.

    Without `swa_full` a layer with a sliding window keeps only what that needs.
    """
    n_cells = padded_ctx(n_ctx)
    n_sequences = n_parallel + (0 if shape.is_recurrent else SPARE_SEQUENCES)
    n_tokens = max(n_ubatch, n_parallel + SPARE_SEQUENCES)
    return [
        _token_bytes(layer.cache, kv_type)
        * _n_layer_cells(
            0 if swa_full else layer.cache.window, n_cells=n_cells, n_sequences=n_sequences, n_tokens=n_tokens
        )
        + layer.cache.state_values * _F32_BYTES * n_parallel
        for layer in shape.layers
    ]


def layer_read_bytes(shape: ModelShape, *, n_text: int, kv_type: KvType) -> list[int]:
    """Return what each layer reads of the cache for one token after a text of `n_text` tokens."""
    return [
        _token_bytes(layer.cache, kv_type) * n_text + layer.cache.state_values * _F32_BYTES
        for layer in shape.layers
    ]


def _n_layer_cells(window: int, *, n_cells: int, n_sequences: int, n_tokens: int) -> int:
    if not window:
        return n_cells
    return padded_ctx(min(n_cells, window * n_sequences + min(n_tokens, n_cells)))


def _token_bytes(cache: LayerCache, kv_type: KvType) -> int:
    values, n_bytes = _BLOCKS[kv_type]
    rows = (cache.k_values, cache.v_values, cache.index_values)
    return sum(-(-row // values) * n_bytes for row in rows)

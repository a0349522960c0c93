"""The KV cache (or recurrent state) of a context, sequence by sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.engine.bindings.library import c

if TYPE_CHECKING:
    from edgeapp.engine.bindings.context import ContextHandle


def kv_truncate(context: ContextHandle, sequence: int, n_keep: int) -> bool:
    """Forget everything from position `n_keep` on; False when the model cannot (recurrent state)."""
    return bool(c.llama_memory_seq_rm(c.llama_get_memory(context), sequence, n_keep, -1))


def kv_forget(context: ContextHandle, sequence: int) -> None:
    """Forget the whole sequence, which every model can."""
    c.llama_memory_seq_rm(c.llama_get_memory(context), sequence, -1, -1)


def kv_copy(context: ContextHandle, source: int, target: int, n_tokens: int) -> None:
    """Let the empty sequence `target` begin with the first `n_tokens` of `source`; the cells are shared.

    The state of a recurrent model is copied as a whole, so `n_tokens` must be all of `source` there.
    """
    c.llama_memory_seq_cp(c.llama_get_memory(context), source, target, 0, n_tokens)


def kv_clear(context: ContextHandle) -> None:
    """Forget all sequences."""
    c.llama_memory_clear(c.llama_get_memory(context), False)


def kv_length(context: ContextHandle, sequence: int) -> int:
    """Return how many positions of `sequence` are in the KV cache."""
    return int(c.llama_memory_seq_pos_max(c.llama_get_memory(context), sequence)) + 1

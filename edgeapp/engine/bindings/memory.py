"""The KV cache (or recurrent state) of a context, sequence by sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.engine.bindings.library import c

if TYPE_CHECKING:
    from edgeapp.engine.bindings.context import ContextHandle


def kv_truncate(context: ContextHandle, n_keep: int) -> bool:
    """Forget everything from position `n_keep` on; False when the model cannot (recurrent state)."""
    return bool(c.llama_memory_seq_rm(c.llama_get_memory(context), 0, n_keep, -1))


def kv_clear(context: ContextHandle) -> None:
    c.llama_memory_clear(c.llama_get_memory(context), False)


def kv_length(context: ContextHandle) -> int:
    """Return how many positions of sequence 0 are in the KV cache."""
    return int(c.llama_memory_seq_pos_max(c.llama_get_memory(context), 0)) + 1

"""One sequence's KV cache or recurrent state as bytes, and back.

llama.cpp checks sizes and types on the way back, but neither positions nor content: see `load_sequence`.
Knows no token and no file.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeapp.engine.bindings.library import c
from edgeapp.engine.bindings.weights import model_is_recurrent
from edgeapp.errors import EngineError

if TYPE_CHECKING:
    from edgeapp.engine.bindings.context import ContextHandle

_MAGIC = (0xAF143CD8).to_bytes(4, "little")  # src/llama-context.cpp, io_magic
_LEAST_BYTES = 12  # the magic, a sequence id, and a count


@dataclass(frozen=True, kw_only=True)
class MemoryKind:
    """What a context's memory can forget.

    Plain KV can be cut anywhere, and so can a sliding window's while it is all there; but saving leaves out
    what the window no longer sees, and other sequences may overwrite it even in a cache of full size.
    """

    n_swa: int
    """Tokens that a sliding window sees; 0 without one."""
    is_recurrent: bool
    """All of it, or in a hybrid model a part, is a state that holds the whole text and cannot be cut."""

    def least_kept(self, first_position: int, n_tokens: int) -> int:
        """Return the shortest beginning to which a sequence of `n_tokens` can be cut without wrong answers.

        `first_position` is the first one present in every layer. The token after the cut sees itself and the
        `n_swa` - 1 before it (src/llama-hparams.h, is_masked_swa).
        """
        if self.is_recurrent:
            return n_tokens
        return min(first_position + self.n_swa - 1, n_tokens) if first_position > 0 else 0

    def least_saved(self, n_tokens: int) -> int:
        """Return the same for a sequence that has been saved and loaded again."""
        if self.is_recurrent:
            return n_tokens
        return n_tokens - 1 if 0 < self.n_swa < n_tokens else 0


def memory_kind(context: ContextHandle) -> MemoryKind:
    model = c.llama_get_model(context)
    return MemoryKind(
        n_swa=int(c.llama_model_n_swa(model)),
        is_recurrent=model_is_recurrent(model),
    )


def first_position(context: ContextHandle, seq_id: int) -> int:
    """Return the first position present in every layer; -1 when the sequence is empty."""
    return int(c.llama_memory_seq_pos_min(c.llama_get_memory(context), seq_id))


def save_sequence(context: ContextHandle, seq_id: int, *, partial: bool = False) -> bytearray:
    """Return a copy of the sequence's state.

    `partial` leaves out what can be cut (the attention layers of hybrid models), which is what a checkpoint
    needs. Keys and values that a sliding window no longer sees are always left out. Raise `EngineError`.
    """
    _check_sequence(context, seq_id)
    n_bytes = int(c.llama_state_seq_get_size_ext(context, seq_id, _flags(partial=partial)))
    data = bytearray(n_bytes)
    written = c.llama_state_seq_get_data_ext(
        context, _pointer(data), n_bytes, seq_id, _flags(partial=partial)
    )
    if written != n_bytes or n_bytes < _LEAST_BYTES:
        raise EngineError(f"llama.cpp saved {written} of the {n_bytes} bytes of a sequence.")
    return data


def load_sequence(
    context: ContextHandle, seq_id: int, data: bytes | bytearray, *, partial: bool = False
) -> bool:
    """Replace the sequence by what `save_sequence` returned; False leaves it empty.

    False when the cache has no room, or was made for another model, KV type or attention. `data` must be
    known to be whole: a flipped cell count aborts the process with recurrent models, a flipped position makes
    later decodes fail, and flipped keys and values are wrong answers. A `partial` state fits only where the
    sequence still holds the tokens before it; cut the sequence to the state's length afterwards.
    """
    _check_sequence(context, seq_id)
    read = 0
    if len(data) >= _LEAST_BYTES and data.startswith(_MAGIC):
        read = c.llama_state_seq_set_data_ext(
            context, _pointer(data), len(data), seq_id, _flags(partial=partial)
        )
    if read == len(data) > 0:
        return True
    c.llama_memory_seq_rm(c.llama_get_memory(context), seq_id, -1, -1)
    return False


def _check_sequence(context: ContextHandle, seq_id: int) -> None:
    """Keep -1, which means all sequences, and what would fail an assertion away from llama.cpp."""
    n_sequences = int(c.llama_n_seq_max(context))
    if not 0 <= seq_id < n_sequences:
        raise EngineError(f"Sequence {seq_id} is not one of the context's {n_sequences}.")


def _flags(*, partial: bool) -> int:
    return int(c.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY if partial else c.LLAMA_STATE_SEQ_FLAGS_NONE)


def _pointer(data: bytes | bytearray) -> Any:
    """Point at the bytes without a copy; the pointer keeps `data` alive."""
    kind = ctypes.POINTER(ctypes.c_uint8)
    if isinstance(data, bytes):
        return ctypes.cast(ctypes.c_char_p(data), kind)
    return ctypes.cast((ctypes.c_uint8 * len(data)).from_buffer(data), kind)

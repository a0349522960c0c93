"""A context: its creation, a batch of tokens to decode in it, and the logits that come out."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NewType

from edgeapp.engine.bindings.library import c, first_problem, recent_problems
from edgeapp.engine.bindings.weights import load_error
from edgeapp.errors import EngineError, LoadFailed, NotEnoughMemory

if TYPE_CHECKING:
    from edgeapp.engine.bindings.weights import ModelHandle

ContextHandle = NewType("ContextHandle", int)

DecodeResult = Literal["ok", "aborted", "no_slot"]
KvType = Literal["f32", "f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
# ggml.h, enum ggml_type
_GGML_TYPES: dict[KvType, int] = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8,
}  # fmt: skip
_UNQUANTISED: tuple[KvType, ...] = ("f32", "f16")
"""The others need flash attention, and heads whose length is a multiple of their block of 32."""


class AbortFlag:
    """Stops a running `llama_decode` on the CPU, from any thread.

    llama.cpp asks a C callback before every graph node whether to go on. A Python callback would take the
    GIL a thousand times a token; C's own `strlen` over a two-byte buffer answers the same question for
    nothing: 0 (go on) for an empty string, 1 (stop) otherwise.
    """

    def __init__(self) -> None:
        self._buffer = ctypes.create_string_buffer(2)
        self.data = ctypes.cast(self._buffer, ctypes.c_void_p)
        self.callback = ctypes.cast(ctypes.CDLL(None).strlen, c.ggml_abort_callback)

    def set(self) -> None:
        self._buffer[0] = b"x"

    def clear(self) -> None:
        self._buffer[0] = b"\0"


@dataclass(frozen=True, kw_only=True)
class ContextOptions:
    """`n_outputs` tokens of a batch can have logits; the library reserves `n_vocab` floats for each."""

    n_ctx: int
    """Tokens that the KV cache holds, for all sequences together."""
    n_sequences: int = 1
    is_unified: bool = True
    """The sequences share all cells; else each has its part of them."""
    n_batch: int
    n_ubatch: int
    n_threads: int
    n_outputs: int = 1
    kv_type: KvType = "f16"


WatchNode = Callable[[int, bool], bool]
"""Gets a graph node's address: first with True, to say whether its data is wanted; if so then with False."""


def watch_callback(watch: WatchNode) -> Any:
    """Return `watch` as C calls it. It must not raise, and must be kept as long as the context."""
    return c.ggml_backend_sched_eval_callback(lambda node, ask, _user_data: watch(node, ask))


def new_context(
    model: ModelHandle, options: ContextOptions, *, abort: AbortFlag | None, watch: Any = None
) -> ContextHandle:
    """Create a context. Raise `NotEnoughMemory` or `LoadFailed`.

    `watch` comes from `watch_callback`. Without `abort` a running decode cannot be aborted.
    """
    params = context_params(options)
    if abort is not None:
        params.abort_callback, params.abort_callback_data = abort.callback, abort.data
    if watch is not None:
        params.cb_eval = watch
    handle = created(model, params)
    if handle is None:
        raise LoadFailed(
            f"llama.cpp could not create a context of {options.n_ctx} tokens: {first_problem()}.",
            hint="A smaller --ctx needs less memory."
            if options.kv_type in _UNQUANTISED
            else "`--kv f16` works with every model.",
        )
    return handle


def context_params(options: ContextOptions) -> Any:
    """Return llama.h's `llama_context_params` with these options."""
    params = c.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = options.n_ctx, options.n_batch, options.n_ubatch
    params.n_threads = params.n_threads_batch = options.n_threads
    params.n_outputs_max = options.n_outputs
    params.n_seq_max, params.kv_unified = options.n_sequences, options.is_unified
    params.type_k = params.type_v = _GGML_TYPES[options.kv_type]
    if options.kv_type == "f32":
        params.flash_attn_type = c.LLAMA_FLASH_ATTN_TYPE_DISABLED  # the CPU's computes in F16 all the same
    return params


def created(model: ModelHandle, params: Any) -> ContextHandle | None:
    """Create a context; None when llama.cpp refuses it. Raise `NotEnoughMemory`."""
    recent_problems.clear()
    handle = c.llama_init_from_model(model, params)
    if handle:
        return ContextHandle(handle)
    problem = load_error()
    if isinstance(problem, NotEnoughMemory):
        raise problem
    return None


def free_context(context: ContextHandle) -> None:
    c.llama_free(context)


def context_n_ctx(context: ContextHandle) -> int:
    return int(c.llama_n_ctx(context))


def context_n_batch(context: ContextHandle) -> int:
    """Return the most tokens of one decode; llama.cpp lowers what was asked for to the context."""
    return int(c.llama_n_batch(context))


class Batch:
    """Tokens of any sequences to decode together, up to `capacity`; used again for every decode."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.n_tokens = 0
        self._tokens = (ctypes.c_int32 * capacity)()
        self._positions = (ctypes.c_int32 * capacity)()
        self._sequences = (ctypes.c_int32 * capacity)()
        self._logits = (ctypes.c_int8 * capacity)()
        self._n_sequences = (ctypes.c_int32 * capacity)(*[1] * capacity)
        first, size = ctypes.addressof(self._sequences), ctypes.sizeof(ctypes.c_int32)
        # llama_batch wants a list of sequences for every token; each of ours is in one.
        self._sequence_lists = (ctypes.c_void_p * capacity)(*(first + size * n for n in range(capacity)))
        self._batch = c.llama_batch(
            token=self._tokens,
            pos=self._positions,
            n_seq_id=self._n_sequences,
            seq_id=ctypes.cast(self._sequence_lists, ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
            logits=self._logits,
        )

    @property
    def room(self) -> int:
        """How many tokens can still be added."""
        return self.capacity - self.n_tokens

    def clear(self) -> None:
        self.n_tokens = 0

    def add(self, tokens: Sequence[int], *, sequence: int, n_past: int, n_logits: int) -> int:
        """Append `tokens` at positions `n_past`, … of `sequence`; the last `n_logits` get logits.

        Return the row of the first of them, which `logits_row` and samplers ask for.
        """
        start, count = self.n_tokens, len(tokens)
        end = self.n_tokens = start + count
        if count == 1:  # nearly always
            self._tokens[start], self._positions[start] = tokens[0], n_past
            self._sequences[start], self._logits[start] = sequence, n_logits
            return start
        self._tokens[start:end] = list(tokens)
        self._positions[start:end] = list(range(n_past, n_past + count))
        self._sequences[start:end] = [sequence] * count
        wanted: list[ctypes.c_byte | int] = [0] * (count - n_logits)
        self._logits[start:end] = wanted + [1] * n_logits
        return end - n_logits

    def decode(self, context: ContextHandle) -> DecodeResult:
        """Decode what has been added.

        Raise `EngineError` when llama.cpp reports a fatal error; the KV cache may then hold part of it.
        """
        self._batch.n_tokens = self.n_tokens
        code = c.llama_decode(context, self._batch)
        c.llama_synchronize(context)  # a GPU may still be at it
        return "ok" if code == 0 else _decode_result(code)


def logits(context: ContextHandle, n_floats: int) -> memoryview:
    """Return the logits of the last decode, row after row; valid until the next one."""
    return memoryview(_array_at(c.llama_get_logits(context), ctypes.c_float, n_floats)).cast("B")


def _array_at(pointer: Any, element: Any, length: int) -> Any:
    return (element * length).from_address(ctypes.addressof(pointer.contents))


def _decode_result(code: int) -> DecodeResult:
    match code:
        case 1:
            return "no_slot"
        case 2:
            return "aborted"
        case -1:
            raise EngineError("llama.cpp refused the batch as invalid (code -1).")
    raise EngineError(f"llama.cpp failed while decoding (code {code}): {first_problem()}.")

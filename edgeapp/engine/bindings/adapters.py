"""LoRA adapters: reading them beside a model, and choosing which ones a context applies."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, NewType

from edgeapp.engine.bindings.library import c, first_problem, recent_problems
from edgeapp.errors import EngineError, LoadFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.engine.bindings.context import ContextHandle
    from edgeapp.engine.bindings.weights import ModelHandle

AdapterHandle = NewType("AdapterHandle", int)


def load_adapter(model: ModelHandle, path: str | os.PathLike[str]) -> AdapterHandle:
    """Read the adapter into the memory that the weights it changes are in. Raise `LoadFailed`.

    llama.cpp trusts more of the file than it checks: `edgeapp.engine.adapter_file` comes first.
    """
    recent_problems.clear()
    pointer = c.llama_adapter_lora_init(model, os.fsencode(path))
    address = ctypes.cast(pointer, ctypes.c_void_p).value
    if address is None:
        raise LoadFailed(
            f"llama.cpp could not load the adapter: {first_problem()}.",
            hint="The adapter may belong to another model.",
        )
    return AdapterHandle(address)


def free_adapter(adapter: AdapterHandle) -> None:
    """Forget an adapter, which no context may use any more, before its model is freed."""
    c.llama_adapter_lora_free(_pointer(adapter))


def set_adapters(context: ContextHandle, scaled: Sequence[tuple[AdapterHandle, float]]) -> None:
    """Apply these adapters, and no others, from the next decode on. The KV cache stays as it is."""
    handles = (c.llama_adapter_lora_p_ctypes * len(scaled))(*(_pointer(adapter) for adapter, _ in scaled))
    scales = (ctypes.c_float * len(scaled))(*(scale for _, scale in scaled))
    code = c.llama_set_adapters_lora(context, handles, len(scaled), scales)
    if code != 0:
        raise EngineError(f"llama.cpp could not apply the adapters (code {code}).")


def _pointer(adapter: AdapterHandle) -> ctypes._Pointer[ctypes.c_void_p]:
    return ctypes.cast(adapter, ctypes.POINTER(ctypes.c_void_p))

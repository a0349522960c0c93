"""A model's weights: loading them, and the facts about them."""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NewType

from edgeapp.engine.bindings.devices import buffer_type, gpu_handle
from edgeapp.engine.bindings.library import c, first_problem, recent_problems
from edgeapp.errors import EngineError, LoadFailed, NotEnoughMemory, UnsupportedModel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LoadMode = Literal["mmap", "none"]
ModelHandle = NewType("ModelHandle", int)


class _BufferOverride(ctypes.Structure):
    """llama.h, struct llama_model_tensor_buft_override; the binding leaves it untyped."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buft", ctypes.c_void_p))


_LOAD_MODES: dict[LoadMode, int] = {"mmap": c.LLAMA_LOAD_MODE_AUTO, "none": c.LLAMA_LOAD_MODE_NONE}


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Where the weights go. `device` is ggml's name of the only GPU that is used; empty is none."""

    device: str = ""
    n_gpu_layers: int = 0
    tensor_overrides: tuple[tuple[str, str], ...] = ()
    """(pattern, buffer) as in `protocol.TensorOverride`."""
    load_mode: LoadMode = "mmap"
    repack: bool = True
    has_weights: bool = True
    """False reads the header only, to ask what memory the model would take. It cannot compute."""
    replaced: tuple[tuple[str, int], ...] = ()
    """Integers of the GGUF header that the model shall have instead of its own, by key."""


def load_model(path: str, options: ModelOptions, on_progress: Callable[[float], bool]) -> ModelHandle:
    """Load a GGUF; `on_progress` gets 0 to 1 and returns False to give up.

    Raise `NotEnoughMemory`, `UnsupportedModel` or `LoadFailed`, told apart by llama.cpp's log, and
    `UsageError` for a device that there is not.
    """
    callback = c.llama_progress_callback(lambda fraction, _user_data: on_progress(fraction))
    params = c.llama_model_default_params()
    arrays = _place(params, options)
    params.use_extra_bufts = options.repack
    params.no_alloc = not options.has_weights
    params.load_mode = _LOAD_MODES[options.load_mode if options.has_weights else "none"]
    params.progress_callback = callback
    if options.replaced:
        params.kv_overrides = _header_overrides(options.replaced)
    recent_problems.clear()
    handle = c.llama_model_load_from_file(path.encode(), params)
    del arrays  # read, and not needed any more
    if not handle:
        raise load_error()
    return ModelHandle(handle)


def _place(params: Any, options: ModelOptions) -> tuple[Any, ...]:
    """Fill in where the weights go; return the arrays that must live for as long as `params` is read."""
    handles = [gpu_handle(options.device)] if options.device else []
    # The last element is NULL. A list without any other keeps every GPU out.
    chosen = (ctypes.c_void_p * (len(handles) + 1))(*handles, None)
    # Without shares llama.cpp divides by the free memory, and fails oddly when that is 0.
    shares = (ctypes.c_float * c.llama_max_devices())(1.0)
    overrides = _buffer_overrides(options.tensor_overrides)
    params.devices = ctypes.cast(chosen, ctypes.c_void_p)
    params.split_mode, params.main_gpu = c.LLAMA_SPLIT_MODE_NONE, 0
    params.tensor_split = ctypes.cast(shares, ctypes.POINTER(ctypes.c_float))
    params.n_gpu_layers = options.n_gpu_layers if options.device else 0
    if options.tensor_overrides:
        params.tensor_buft_overrides = ctypes.cast(overrides, ctypes.c_void_p)
    return chosen, shares, overrides


def _buffer_overrides(wanted: Sequence[tuple[str, str]]) -> Any:
    """Return the array as llama.h wants it: the last element is empty."""
    overrides = [_BufferOverride(pattern.encode(), buffer_type(buffer)) for pattern, buffer in wanted]
    return (_BufferOverride * (len(overrides) + 1))(*overrides, _BufferOverride(None, None))


def _header_overrides(replaced: Sequence[tuple[str, int]]) -> Any:
    """Return the array as llama.h wants it: the key of the last element is empty."""
    overrides = (c.llama_model_kv_override * (len(replaced) + 1))()
    for override, (key, value) in zip(overrides, replaced, strict=False):
        override.tag, override.key = c.LLAMA_KV_OVERRIDE_TYPE_INT, key.encode()
        override.value.val_i64 = value
    return overrides


def load_error() -> EngineError | NotEnoughMemory | UnsupportedModel:
    log = " ".join(recent_problems)
    if "unknown model architecture" in log:
        return UnsupportedModel(
            f"This build of llama.cpp does not know the model's architecture: {first_problem()}.",
            hint="A newer edgeapp may support it.",
        )
    if any(sign in log for sign in ("unable to allocate", "failed to allocate", "out of memory")):
        return _not_enough_memory(log)
    return LoadFailed(
        f"llama.cpp could not load the model: {first_problem()}.",
        hint="`edgeapp models verify` checks a downloaded file; a damaged one must be downloaded again.",
    )


# ggml-alloc.c: "failed to allocate CUDA0 buffer of size 72195840"
_ALLOCATION = re.compile(r"failed to allocate (\S+) buffer of size (\d+)")


def _not_enough_memory(log: str) -> NotEnoughMemory:
    refused = _ALLOCATION.search(log)
    if refused is None:
        problem, needed_bytes = first_problem(), 0
    else:
        needed_bytes = int(refused[2])
        problem = f"{needed_bytes / 1024**2:.0f} MiB of {refused[1]} could not be had"
    return NotEnoughMemory(
        f"There is not enough memory for the model: {problem}.",
        needed_bytes=needed_bytes,
        hint="Close other programs, or choose a smaller quantisation or a smaller --ctx.",
    )


def free_model(model: ModelHandle) -> None:
    c.llama_model_free(model)


def model_desc(model: ModelHandle) -> str:
    buffer = ctypes.create_string_buffer(256)
    c.llama_model_desc(model, buffer, len(buffer))
    return buffer.value.decode("utf-8", "replace")


def model_n_ctx_train(model: ModelHandle) -> int:
    return int(c.llama_model_n_ctx_train(model))


def model_is_recurrent(model: ModelHandle) -> bool:
    """Tell whether any layer keeps a state that holds the whole text and cannot be cut (Mamba, hybrids)."""
    return bool(c.llama_model_is_recurrent(model) or c.llama_model_is_hybrid(model))


def model_n_embd(model: ModelHandle) -> int:
    return int(c.llama_model_n_embd(model))


def model_has_decoder(model: ModelHandle) -> bool:
    return bool(c.llama_model_has_decoder(model)) and not c.llama_model_has_encoder(model)


def chat_template(model: ModelHandle, variant: str = "") -> str | None:
    """Return the GGUF's chat template, or a named variant of it; None when it carries none."""
    name = variant.encode() or None
    template: bytes | None = c.llama_model_chat_template(model, name)
    return template.decode("utf-8", "replace") if template else None

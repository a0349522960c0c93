"""A model's weights: loading them, and the facts about them."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NewType

from edgeapp.engine.bindings.library import c, first_problem, ggml_function, recent_problems
from edgeapp.errors import EngineError, LoadFailed, NotEnoughMemory, UnsupportedModel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ModelHandle = NewType("ModelHandle", int)


class _BufferOverride(ctypes.Structure):
    """llama.h, struct llama_model_tensor_buft_override; the binding leaves it untyped."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buft", ctypes.c_void_p))


EXPERT_TENSORS = rb"\.ffn_(up|down|gate|gate_up)_(ch|)exps"  # llama.cpp common/common.h, LLM_FFN_EXPS_REGEX


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    n_gpu_layers: int
    cpu_experts: bool
    use_mmap: bool
    repack: bool = True
    replaced: tuple[tuple[str, int], ...] = ()
    """Integers of the GGUF header that the model shall have instead of its own, by key."""


def load_model(path: str, options: ModelOptions, on_progress: Callable[[float], bool]) -> ModelHandle:
    """Load a GGUF; `on_progress` gets 0 to 1 and returns False to give up.

    Raise `NotEnoughMemory`, `UnsupportedModel` or `LoadFailed`, told apart by llama.cpp's log.
    """
    callback = c.llama_progress_callback(lambda fraction, _user_data: on_progress(fraction))
    params = c.llama_model_default_params()
    params.n_gpu_layers = options.n_gpu_layers
    params.use_extra_bufts = options.repack
    params.load_mode = c.LLAMA_LOAD_MODE_AUTO if options.use_mmap else c.LLAMA_LOAD_MODE_NONE
    params.progress_callback = callback
    if options.cpu_experts:
        overrides = _expert_overrides()
        params.tensor_buft_overrides = ctypes.cast(overrides, ctypes.c_void_p)
    if options.replaced:
        params.kv_overrides = _header_overrides(options.replaced)
    recent_problems.clear()
    handle = c.llama_model_load_from_file(path.encode(), params)
    if not handle:
        raise load_error()
    return ModelHandle(handle)


def _expert_overrides() -> Any:
    cpu_buffer = ggml_function("ggml_backend_cpu_buffer_type", ctypes.c_void_p)()
    return (_BufferOverride * 2)(_BufferOverride(EXPERT_TENSORS, cpu_buffer), _BufferOverride(None, None))


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
        return NotEnoughMemory(
            f"There is not enough memory for the model: {first_problem()}.",
            hint="Close other programs, or choose a smaller quantisation or a smaller --ctx.",
        )
    return LoadFailed(
        f"llama.cpp could not load the model: {first_problem()}.",
        hint="`edgeapp models verify` checks a downloaded file; a damaged one must be downloaded again.",
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

"""Values of a loaded model's GGUF header."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from edgeapp.engine.bindings.library import c

if TYPE_CHECKING:
    from edgeapp.engine.bindings.weights import ModelHandle


def model_value(model: ModelHandle, key: str) -> str | None:
    """Return a scalar or string as llama.cpp writes it (`true`, `12`); None when the header has none."""
    buffer = ctypes.create_string_buffer(256)
    length = c.llama_model_meta_val_str(model, key.encode(), buffer, len(buffer))
    return buffer.value.decode("utf-8", "replace") if length >= 0 else None


def model_arch_value(model: ModelHandle, key: str) -> str | None:
    """Return the value of `<architecture>.<key>`."""
    return model_value(model, f"{model_value(model, 'general.architecture')}.{key}")

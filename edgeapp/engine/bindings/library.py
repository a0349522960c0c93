"""Load llama.cpp's shared library through llama-cpp-python, check its layout, and take over its log."""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import importlib.util
import sys
import types
from collections import deque
from typing import Any

from edgeapp.errors import BindingMismatch

BINDING_VERSION = "0.3.36"
_STRUCT_BYTES = {"llama_model_params": 80, "llama_context_params": 160, "llama_batch": 56}
_MODEL_DEFAULTS = {"n_gpu_layers": -1, "split_mode": 1, "load_mode": -1, "use_extra_bufts": True}
_CONTEXT_DEFAULTS = {"n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "flash_attn_type": -1, "type_k": 1}


_LOG_WARN, _LOG_ERROR = 3, 4  # ggml.h, enum ggml_log_level


def _import_binding() -> Any:
    """Import `llama_cpp.llama_cpp` without running `llama_cpp/__init__.py`.

    The package's own `__init__` imports its high-level API with numpy, diskcache and jinja2: 130 ms that
    nobody here needs.
    """
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.submodule_search_locations is None:
        raise BindingMismatch(
            "llama-cpp-python is not installed.",
            hint=f"`make run` builds it; elsewhere: pip install 'llama-cpp-python=={BINDING_VERSION}'",
        )
    package = types.ModuleType("llama_cpp")
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = spec
    is_new = sys.modules.setdefault("llama_cpp", package) is package
    try:
        return importlib.import_module("llama_cpp.llama_cpp")
    except (RuntimeError, OSError, AttributeError) as problem:
        raise BindingMismatch(
            f"The engine's library cannot be loaded: {problem}.",
            hint="`make clean run` builds it again.",
        ) from problem
    finally:
        if is_new:
            del sys.modules["llama_cpp"]  # whoever imports the whole package gets the whole package


def _check_binding() -> None:
    version = importlib.metadata.version("llama_cpp_python")
    if version != BINDING_VERSION:
        raise BindingMismatch(
            f"llama-cpp-python {version} is installed, edgeapp needs exactly {BINDING_VERSION}.",
            hint=f"pip install 'llama-cpp-python=={BINDING_VERSION}'",
        )
    sizes = {name: ctypes.sizeof(getattr(c, name)) for name in _STRUCT_BYTES}
    model, context = c.llama_model_default_params(), c.llama_context_default_params()
    found_model = {name: getattr(model, name) for name in _MODEL_DEFAULTS}
    found_context = {name: getattr(context, name) for name in _CONTEXT_DEFAULTS}
    if (sizes, found_model, found_context) != (_STRUCT_BYTES, _MODEL_DEFAULTS, _CONTEXT_DEFAULTS):
        raise BindingMismatch(
            "The shared library and llama-cpp-python disagree about their structs.",
            hint="LLAMA_CPP_LIB_PATH may point at another build: unset it.",
        )


c = _import_binding()
"""`llama_cpp.llama_cpp`: llama.h as ctypes functions and structs."""
_check_binding()


@functools.cache
def ggml_function(name: str, restype: Any, *argtypes: Any) -> Any:
    """Find a function that llama-cpp-python does not declare, of ggml or of llama.cpp.

    It is looked up through libllama, so that it comes from the very libggml that libllama uses: an installed
    wheel holds several copies of each library under different names, and each would load as another one.
    """
    library = c._lib._name  # noqa: SLF001 - the file that the binding really loaded
    try:
        function = getattr(ctypes.CDLL(library), name)
    except (AttributeError, OSError) as problem:
        raise BindingMismatch(
            f"{name} is missing from the engine's library: {problem}.",
            hint="`make clean run` builds it again.",
        ) from problem
    function.restype, function.argtypes = restype, list(argtypes)
    return function


# Log -----------------------------------------------------------------------------------------------------

recent_problems: deque[str] = deque(maxlen=20)


@c.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, _user_data: object) -> None:
    if level in (_LOG_WARN, _LOG_ERROR):
        line = text.decode("utf-8", "replace").rstrip()
        if level == _LOG_ERROR:
            recent_problems.append(line)
        sys.stderr.write(line + "\n")


def first_problem() -> str:
    """Return the first error that was logged since the last load; what follows it is usually its echo."""
    return recent_problems[0].rstrip(".") if recent_problems else "no reason given"


def start() -> None:
    """Initialise llama.cpp and take over its log: warnings and errors go to stderr."""
    c.llama_log_set(_on_log, None)
    c.llama_backend_init()


def stop() -> None:
    c.llama_backend_free()


def system_info() -> str:
    """Return llama.cpp's line about CPU features and backends."""
    info: bytes = c.llama_print_system_info()
    return info.decode("utf-8", "replace")

"""Compute devices as ggml knows them: finding one by name, its memory, its buffer types.

A GPU of another machine, behind llama.cpp's `rpc-server`, is a device too: `rpc_servers` registers it.
"""

from __future__ import annotations

import ctypes
from typing import Literal, TypeAlias

from edgeapp.engine.bindings import rpc_servers
from edgeapp.engine.bindings.library import ggml_function
from edgeapp.errors import UsageError
from edgeapp.protocol import Device

HOST_BUFFER = "CPU"
"""The name of host memory in a tensor override."""
DeviceKind: TypeAlias = Literal["cpu", "gpu", "igpu", "accel", "meta"]
# ggml-backend.h, enum ggml_backend_dev_type
DEVICE_KINDS: tuple[DeviceKind, ...] = ("cpu", "gpu", "igpu", "accel", "meta")
_GPU_KINDS = ("gpu", "igpu")

_handle = ctypes.c_void_p
_text = ctypes.c_char_p


def devices() -> tuple[Device, ...]:
    """Return every compute device with its free and total bytes."""
    return tuple(device(handle) for handle in _handles())


def gpu_handle(name: str) -> int:
    """Return the GPU that ggml calls `name`. Raise `UsageError` when there is none."""
    gpus = {device_name(handle): handle for handle in _handles() if device_kind(handle) in _GPU_KINDS}
    if name in gpus:
        return gpus[name]
    known = f"There are: {', '.join(gpus)}" if gpus else "There is none"
    silent = "".join(f" {problem}" for problem in rpc_servers.problems)
    raise UsageError(
        f"The engine knows no GPU {name!r}. {known}.{silent}",
        hint="`--gpu off` runs the model on the CPU.",
    )


def device(handle: int) -> Device:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    size_p = ctypes.POINTER(ctypes.c_size_t)
    ggml_function("ggml_backend_dev_memory", None, _handle, size_p, size_p)(handle, free, total)
    return Device(
        name=device_name(handle),
        description=ggml_function("ggml_backend_dev_description", _text, _handle)(handle).decode(),
        kind=device_kind(handle),
        free_bytes=free.value,
        total_bytes=total.value,
    )


def device_name(handle: int) -> str:
    name: bytes = ggml_function("ggml_backend_dev_name", _text, _handle)(handle)
    return name.decode()


def device_kind(handle: int) -> DeviceKind:
    number: int = ggml_function("ggml_backend_dev_type", ctypes.c_int, _handle)(handle)
    return DEVICE_KINDS[number]


def cpu_handle() -> int:
    handle: int = ggml_function("ggml_backend_dev_by_type", _handle, ctypes.c_int)(DEVICE_KINDS.index("cpu"))
    return handle


def buffer_type(name: str) -> int:
    """Return the buffer type of host memory ("CPU") or of the GPU `name`. Raise `UsageError`.

    For a tensor override "CPU" means: the best host memory for this tensor (llama.cpp, create_tensor and
    make_cpu_buft_list). Beside a backend that has page-locked memory, as CUDA, that is page-locked memory
    with load mode "none", and the mapped file, neither locked nor repacked, with "mmap". Beside any other,
    as RPC, it is what the CPU alone would use: the repacked layout where the tensor's type has one.
    """
    if name == HOST_BUFFER:
        plain: int = ggml_function("ggml_backend_cpu_buffer_type", _handle)()
        return plain
    return device_buffer_type(gpu_handle(name))


def device_buffer_type(handle: int) -> int:
    buffer: int = ggml_function("ggml_backend_dev_buffer_type", _handle, _handle)(handle)
    return buffer


def pinned_buffer_type(handle: int) -> int | None:
    """Return the type of host memory that the device copies from fastest; None where there is none."""
    buffer: int | None = ggml_function("ggml_backend_dev_host_buffer_type", _handle, _handle)(handle)
    return buffer


def buffer_type_device(buffer: int) -> str:
    """Return the name of the device whose memory it is; "CPU" for every kind of host memory."""
    is_host: bool = ggml_function("ggml_backend_buft_is_host", ctypes.c_bool, _handle)(buffer)
    handle: int | None = ggml_function("ggml_backend_buft_get_device", _handle, _handle)(buffer)
    if is_host or handle is None or device_kind(handle) not in _GPU_KINDS:
        return HOST_BUFFER
    return device_name(handle)


def _handles() -> list[int]:
    get = ggml_function("ggml_backend_dev_get", _handle, ctypes.c_size_t)
    return [get(index) for index in range(ggml_function("ggml_backend_dev_count", ctypes.c_size_t)())]

"""Hold GPU memory, so that a large card is as small as the one whose user we think of.

    python -m benchmarks.gpu.hold LIBRARIES FREE_MIB [ENDPOINT]

Allocates until `FREE_MIB` are free, prints how many are, and holds them until its stdin ends. Works through
ggml, so it needs no other library; `ENDPOINT` is a loopback device instead of a GPU.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

MIB = 1 << 20
_GPU = 1  # ggml-backend.h, enum ggml_backend_dev_type
_CHUNK_MIB = 2048  # a device may have a largest buffer
_TOLERANCE_MIB = 8


class Device:
    """The first GPU that ggml knows."""

    def __init__(self, libraries: Path, endpoint: str = "") -> None:
        self._ggml = ctypes.CDLL(str(libraries / "libllama.so"))  # finds ggml's functions in what it loads
        pointer, size_pointer = ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t)
        for name, restype, argtypes in (
            ("ggml_backend_rpc_add_server", pointer, [ctypes.c_char_p]),
            ("ggml_backend_register", None, [pointer]),
            ("ggml_backend_dev_by_type", pointer, [ctypes.c_int]),
            ("ggml_backend_dev_memory", None, [pointer, size_pointer, size_pointer]),
            ("ggml_backend_dev_buffer_type", pointer, [pointer]),
            ("ggml_backend_buft_alloc_buffer", pointer, [pointer, ctypes.c_size_t]),
        ):
            function = getattr(self._ggml, name)
            function.restype, function.argtypes = restype, argtypes
        if endpoint:
            self._ggml.ggml_backend_register(self._ggml.ggml_backend_rpc_add_server(endpoint.encode()))
        self._device = self._ggml.ggml_backend_dev_by_type(_GPU)
        if not self._device:
            sys.exit("ggml finds no GPU")

    def free_mib(self) -> int:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._ggml.ggml_backend_dev_memory(self._device, free, total)
        return free.value // MIB

    def take(self, mib: int) -> bool:
        """Allocate until this process ends."""
        buffer_type = self._ggml.ggml_backend_dev_buffer_type(self._device)
        return bool(self._ggml.ggml_backend_buft_alloc_buffer(buffer_type, mib * MIB))


def leave_free(device: Device, wanted_mib: int) -> int:
    """Allocate all but `wanted_mib` and return what is free then."""
    while (spare_mib := device.free_mib() - wanted_mib) > _TOLERANCE_MIB:
        if not device.take(min(spare_mib, _CHUNK_MIB)):
            sys.exit(f"{spare_mib} MiB more could not be allocated")
    return device.free_mib()


def main() -> None:
    libraries, wanted_mib, *endpoint = sys.argv[1:]
    free_mib = leave_free(Device(Path(libraries), *endpoint), int(wanted_mib))
    if free_mib < int(wanted_mib) - _TOLERANCE_MIB:
        sys.exit(f"only {free_mib} MiB are free, {wanted_mib} were wanted")
    print(free_mib, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()

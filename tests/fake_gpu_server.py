"""The process behind `tests.fake_gpu`: RPC devices that compute on the CPU, with an invented amount of VRAM.

    python fake_gpu_server.py LISTENING_FD READY_FD FOLDER N_THREADS MIB...

llama.cpp's own RPC server does the work; only the functions that say how much memory there is and that
allocate it are replaced, by patching copies of ggml's C structs. `FOLDER` holds two JSON lists of bytes, one
number a device: `taken.json`, what other programs hold, is read whenever somebody asks or allocates;
`used.json`, what clients of this server hold, is written.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

MIB = 1024**2
N_CLIENTS = 6
"""How many can be served at the same time; llama.cpp's server serves one."""
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_CPU = 0  # ggml-backend.h, enum ggml_backend_dev_type
_N_BACKEND_WORDS = 40  # more than struct ggml_backend has pointers before its device

_pointer = ctypes.c_void_p
_size_pointer = ctypes.POINTER(ctypes.c_size_t)
_GetMemory = ctypes.CFUNCTYPE(None, _pointer, _size_pointer, _size_pointer)
_GetBufferType = ctypes.CFUNCTYPE(_pointer, _pointer)
_Allocate = ctypes.CFUNCTYPE(_pointer, _pointer, ctypes.c_size_t)
_Free = ctypes.CFUNCTYPE(None, _pointer)
_InitBackend = ctypes.CFUNCTYPE(_pointer, _pointer, ctypes.c_char_p)


class _Device(ctypes.Structure):
    """ggml-backend-impl.h, struct ggml_backend_device."""

    _fields_ = tuple(
        (name, _pointer)
        for name in (
            "get_name", "get_description", "get_memory", "get_type", "get_props", "init_backend",
            "get_buffer_type", "get_host_buffer_type", "buffer_from_host_ptr", "supports_op",
            "supports_buft", "offload_op", "event_new", "event_free", "event_synchronize", "reg", "context",
        )
    )  # fmt: skip


class _BufferType(ctypes.Structure):
    """ggml-backend-impl.h, struct ggml_backend_buffer_type."""

    _fields_ = tuple(
        (name, _pointer)
        for name in (
            "get_name", "alloc_buffer", "get_alignment", "get_max_size", "get_alloc_size", "is_host",
            "device", "context",
        )
    )  # fmt: skip


class _Ggml:
    """The libraries of the installed llama-cpp-python, and the CPU device among what they have."""

    def __init__(self) -> None:
        spec = importlib.util.find_spec("llama_cpp")
        assert spec is not None
        assert spec.origin is not None
        folder = Path(spec.origin).parent / "lib"
        # The installed files are copies, not links: what libggml has loaded is found by its SONAME alone.
        ggml = ctypes.CDLL(str(folder / "libggml.so"), ctypes.RTLD_GLOBAL)
        base, rpc = ctypes.CDLL("libggml-base.so.0"), ctypes.CDLL("libggml-rpc.so.0")
        ggml.ggml_backend_dev_by_type.restype = _pointer
        self.cpu: int = ggml.ggml_backend_dev_by_type(_CPU)
        base.ggml_backend_dev_buffer_type.restype = _pointer
        base.ggml_backend_dev_buffer_type.argtypes = [_pointer]
        self.cpu_buffer_type: int = base.ggml_backend_dev_buffer_type(self.cpu)
        self.serve = rpc.ggml_backend_rpc_start_server
        self.serve.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, _pointer]


class _Vram:
    """Who holds how many bytes of each device."""

    def __init__(self, folder: Path, totals: list[int]) -> None:
        self._folder = folder
        self._totals = totals
        self._used = [0] * len(totals)
        self._lock = threading.Lock()
        self._write()

    def total(self, device: int) -> int:
        return self._totals[device]

    def free(self, device: int) -> int:
        taken: list[int] = json.loads((self._folder / "taken.json").read_text("utf-8"))
        return max(self._totals[device] - taken[device] - self._used[device], 0)

    def take(self, device: int, n_bytes: int) -> bool:
        with self._lock:
            if n_bytes > self.free(device):
                return False
            self._used[device] += n_bytes
            self._write()
            return True

    def give_back(self, device: int, n_bytes: int) -> None:
        with self._lock:
            self._used[device] -= n_bytes
            self._write()

    def _write(self) -> None:
        part = self._folder / "used.part"
        part.write_text(json.dumps(self._used), "utf-8")
        part.replace(self._folder / "used.json")


class _FakeDevice:
    """ggml's CPU device under other memory functions. `address` is its C struct."""

    def __init__(self, ggml: _Ggml, vram: _Vram, index: int) -> None:
        self._ggml, self._vram, self._index = ggml, vram, index
        self._device, self._buffer_type = _Device(), _BufferType()
        ctypes.memmove(ctypes.byref(self._device), ggml.cpu, ctypes.sizeof(_Device))
        ctypes.memmove(ctypes.byref(self._buffer_type), ggml.cpu_buffer_type, ctypes.sizeof(_BufferType))
        self.address = ctypes.addressof(self._device)
        self._really_allocate = _Allocate(self._buffer_type.alloc_buffer)
        self._really_init = _InitBackend(self._device.init_backend)
        # C keeps their addresses: they must live as long as this object.
        self._callbacks: list[Any] = [
            _GetMemory(self._get_memory),
            _GetBufferType(lambda _device: ctypes.addressof(self._buffer_type)),
            _InitBackend(self._init_backend),
            _Allocate(self._allocate),
        ]
        addresses = [ctypes.cast(callback, _pointer).value for callback in self._callbacks]
        self._device.get_memory, self._device.get_buffer_type, self._device.init_backend = addresses[:3]
        self._buffer_type.alloc_buffer, self._buffer_type.device = addresses[3], self.address

    def _get_memory(self, _device: int, free: Any, total: Any) -> None:
        free[0], total[0] = self._vram.free(self._index), self._vram.total(self._index)

    def _init_backend(self, _device: int, options: bytes | None) -> int:
        """The server asks a backend's device for memory, so that has to be this one."""
        backend: int = self._really_init(self._ggml.cpu, options)
        words = ctypes.cast(backend, ctypes.POINTER(_pointer))
        at = next(n for n in range(_N_BACKEND_WORDS) if words[n] == self._ggml.cpu)
        words[at] = self.address
        return backend

    def _allocate(self, _buffer_type: int, n_bytes: int) -> int | None:
        if not self._vram.take(self._index, n_bytes):
            sys.stderr.write(f"out of memory: {n_bytes} bytes wanted, {self._vram.free(self._index)} free\n")
            return None
        buffer: int | None = self._really_allocate(self._ggml.cpu_buffer_type, n_bytes)
        if buffer:
            self._watch_freeing(buffer, n_bytes)
        return buffer

    def _watch_freeing(self, buffer: int, n_bytes: int) -> None:
        """struct ggml_backend_buffer begins with its function `free_buffer`."""
        first_word = ctypes.cast(buffer, ctypes.POINTER(_pointer))
        really_free = _Free(first_word[0])

        def free(address: int) -> None:
            self._vram.give_back(self._index, n_bytes)
            really_free(address)

        callback = _Free(free)
        self._callbacks += [really_free, callback]
        first_word[0] = ctypes.cast(callback, _pointer).value


def _serve(ggml: _Ggml, devices: list[_FakeDevice], n_threads: int) -> None:
    addresses = (_pointer * len(devices))(*(device.address for device in devices))
    ggml.serve(b"127.0.0.1:0", None, n_threads, len(devices), addresses)


def _listening_fds() -> dict[int, int]:
    """Return the port of each listening socket of this process, by file descriptor."""
    ports = {}
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if entry.is_socket():
                with socket.socket(fileno=os.dup(int(entry.name))) as one:
                    if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                        ports[int(entry.name)] = int(one.getsockname()[1])
    return ports


def _join(shared_fd: int, known: set[int]) -> int:
    """Make the server that has begun to listen accept from the shared socket; return its descriptor.

    Each of llama.cpp's servers opens a socket of its own. The descriptor is made to mean the shared one, and
    a connection to the old one ends the `accept` that may wait there already.
    """
    while True:
        for fd, port in _listening_fds().items():
            if fd not in known:
                os.dup2(shared_fd, fd)
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", port), 1.0).close()
                return fd


def main() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    shared_fd, ready_fd, n_threads = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[4])
    ggml = _Ggml()
    vram = _Vram(Path(sys.argv[3]), [int(mib) * MIB for mib in sys.argv[5:]])
    devices = [_FakeDevice(ggml, vram, index) for index in range(len(sys.argv[5:]))]
    known = {shared_fd}
    for _ in range(N_CLIENTS):
        threading.Thread(target=_serve, args=(ggml, devices, n_threads), daemon=True).start()
        known.add(_join(shared_fd, known))
    os.write(ready_fd, b"ready")
    os.close(ready_fd)
    signal.pause()


if __name__ == "__main__":
    main()

"""Matrix products on one device outside of any model, with ggml's own kernels: what a measurement times."""

from __future__ import annotations

import ctypes
import itertools
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeapp.engine.bindings.devices import cpu_handle, device_buffer_type, device_name, pinned_buffer_type
from edgeapp.engine.bindings.library import ggml_function
from edgeapp.errors import EngineError, NotEnoughMemory

if TYPE_CHECKING:
    from collections.abc import Iterator

_Q4_K, _F32 = 12, 0  # ggml.h, enum ggml_type
_Q4_K_BLOCK, _Q4_K_BLOCK_BYTES = 256, 144
_pointer, _size = ctypes.c_void_p, ctypes.c_size_t


class _InitParams(ctypes.Structure):
    """ggml.h, struct ggml_init_params."""

    _fields_ = (("mem_size", _size), ("mem_buffer", _pointer), ("no_alloc", ctypes.c_bool))


@dataclass(frozen=True, kw_only=True)
class Matrices:
    """`n` weight matrices [n_out, n_in] in Q4_K, each multiplied with the same `n_columns` vectors."""

    n: int
    n_in: int
    n_out: int
    n_columns: int = 1

    @property
    def matrix_bytes(self) -> int:
        return self.n_out * (self.n_in // _Q4_K_BLOCK) * _Q4_K_BLOCK_BYTES

    @property
    def weights_bytes(self) -> int:
        return self.n * self.matrix_bytes

    @property
    def n_flops(self) -> int:
        """A multiply-add counts two."""
        return 2 * self.n * self.n_in * self.n_out * self.n_columns


class Backend:
    """A stream of work on one device, from `open_backend`."""

    def __init__(self, device: int, handle: int) -> None:
        self.device = device
        self.handle = handle

    def use_threads(self, n_threads: int) -> None:
        """Compute with `n_threads` from now on; for the CPU's backend only."""
        ggml_function("ggml_backend_cpu_set_n_threads", None, _pointer, ctypes.c_int)(self.handle, n_threads)


class Product:
    """A graph that is ready to compute, from `open_product`."""

    def __init__(self, backend: Backend, graph: int, vectors: int, result: int) -> None:
        self._backend, self._graph = backend, graph
        self._vectors, self._result = vectors, result
        self._number = (ctypes.c_float * 1)()

    def compute(self) -> None:
        """Compute once, to the end. Raise `EngineError`.

        A number is read back: a device behind RPC computes after the call has returned.
        """
        compute = ggml_function("ggml_backend_graph_compute", ctypes.c_int, _pointer, _pointer)
        status = compute(self._backend.handle, self._graph)
        if status != 0:
            raise EngineError(
                f"{device_name(self._backend.device)} could not compute (ggml status {status})."
            )
        self.copy_out(self._number)

    def copy_in(self, numbers: ctypes.Array[ctypes.c_float]) -> None:
        """Copy the first of the vectors' numbers to the device."""
        copy_to(self._vectors, ctypes.addressof(numbers), ctypes.sizeof(numbers))

    def copy_out(self, numbers: ctypes.Array[ctypes.c_float]) -> None:
        """Copy the first numbers of the last matrix's result back."""
        get = ggml_function("ggml_backend_tensor_get", None, _pointer, _pointer, _size, _size)
        get(self._result, ctypes.addressof(numbers), 0, ctypes.sizeof(numbers))


@contextmanager
def open_backend(device: int) -> Iterator[Backend]:
    handle = ggml_function("ggml_backend_dev_init", _pointer, _pointer, ctypes.c_char_p)(device, None)
    if not handle:
        raise EngineError(f"{device_name(device)} cannot be used.")
    try:
        yield Backend(device, handle)
    finally:
        ggml_function("ggml_backend_free", None, _pointer)(handle)


@contextmanager
def open_product(backend: Backend, matrices: Matrices, *, repacked: bool = False) -> Iterator[Product]:
    """Allocate and fill `matrices` on the backend's device. Raise `NotEnoughMemory`.

    `repacked` takes the layout that the CPU computes fastest with, where it has one for Q4_K.
    """
    plain = device_buffer_type(backend.device)
    buffer_type = (_repacked_buffer_type(backend) if repacked else None) or plain
    with ExitStack() as stack:
        fixed, changing = (stack.enter_context(_tensors(2 * matrices.n + 1)) for _ in range(2))
        weights = [_tensor_2d(fixed, _Q4_K, matrices.n_in, matrices.n_out) for _ in range(matrices.n)]
        stack.enter_context(_memory(fixed, buffer_type, backend.device))
        vectors = _tensor_2d(changing, _F32, matrices.n_in, matrices.n_columns)
        results = [_multiply(changing, matrix, vectors) for matrix in weights]
        graph = _graph(changing, results)
        stack.enter_context(_memory(changing, plain, backend.device))
        yield Product(backend, graph, vectors, results[-1])


@contextmanager
def page_locked(device: int, n_bytes: int) -> Iterator[int | None]:
    """Yield the address of host memory that the device copies from fastest; None where there is none."""
    buffer_type = pinned_buffer_type(device)
    allocate = ggml_function("ggml_backend_buft_alloc_buffer", _pointer, _pointer, _size)
    buffer = allocate(buffer_type, n_bytes) if buffer_type else None
    if not buffer:
        yield None
        return
    try:
        ggml_function("ggml_backend_buffer_clear", None, _pointer, ctypes.c_uint8)(buffer, _FILL)
        yield ggml_function("ggml_backend_buffer_get_base", _pointer, _pointer)(buffer)
    finally:
        ggml_function("ggml_backend_buffer_free", None, _pointer)(buffer)


@contextmanager
def device_tensor(device: int, n_bytes: int) -> Iterator[int]:
    """Yield a tensor of `n_bytes` on the device, for `copy_to`. Raise `NotEnoughMemory`."""
    with _tensors(1) as context:
        tensor = _tensor_2d(context, _F32, n_bytes // 4, 1)
        with _memory(context, device_buffer_type(device), device):
            yield tensor


def copy_to(tensor: int, address: int, n_bytes: int) -> None:
    """Copy host memory to the beginning of a tensor."""
    copy = ggml_function("ggml_backend_tensor_set", None, _pointer, _pointer, _size, _size)
    copy(tensor, address, 0, n_bytes)


_FILL = 0x11
"""Any byte that makes no denormal number: ggml's half-precision scales become 6e-4. Memory that was never
written would be one page of zeros, and as fast as the cache."""


@contextmanager
def _tensors(n_tensors: int) -> Iterator[int]:
    """Yield a ggml context for `n_tensors` without data and a graph."""
    overhead_bytes = n_tensors * ggml_function("ggml_tensor_overhead", _size)()
    params = _InitParams(overhead_bytes + ggml_function("ggml_graph_overhead", _size)(), None, True)
    context = ggml_function("ggml_init", _pointer, _InitParams)(params)
    try:
        yield context
    finally:
        ggml_function("ggml_free", None, _pointer)(context)


def _tensor_2d(context: int, ggml_type: int, n_in: int, n_out: int) -> int:
    int64 = ctypes.c_int64
    new = ggml_function("ggml_new_tensor_2d", _pointer, _pointer, ctypes.c_int, int64, int64)
    tensor: int = new(context, ggml_type, n_in, n_out)
    return tensor


@contextmanager
def _memory(context: int, buffer_type: int, device: int) -> Iterator[None]:
    """Give the context's tensors memory, filled. Raise `NotEnoughMemory`."""
    allocate = ggml_function("ggml_backend_alloc_ctx_tensors_from_buft", _pointer, _pointer, _pointer)
    buffer = allocate(context, buffer_type)
    if not buffer:
        raise NotEnoughMemory(
            f"There is not enough memory on {device_name(device)} to measure it.",
            hint="Close other programs that use it.",
        )
    try:
        ggml_function("ggml_backend_buffer_clear", None, _pointer, ctypes.c_uint8)(buffer, _FILL)
        yield
    finally:
        ggml_function("ggml_backend_buffer_free", None, _pointer)(buffer)


def _graph(context: int, results: list[int]) -> int:
    graph: int = ggml_function("ggml_new_graph", _pointer, _pointer)(context)
    expand = ggml_function("ggml_build_forward_expand", None, _pointer, _pointer)
    for result in results:
        expand(graph, result)
    return graph


def _multiply(context: int, matrix: int, vectors: int) -> int:
    product: int = ggml_function("ggml_mul_mat", _pointer, _pointer, _pointer, _pointer)(
        context, matrix, vectors
    )
    return product


def _repacked_buffer_type(backend: Backend) -> int | None:
    """Return the buffer type in which the CPU multiplies repacked Q4_K; None where this CPU has none."""
    buffer_type = _extra_buffer_type(b"CPU_REPACK")
    if buffer_type is None:
        return None
    supports = ggml_function("ggml_backend_supports_op", ctypes.c_bool, _pointer, _pointer)
    with _tensors(1) as fixed, _tensors(2) as changing:
        matrix = _tensor_2d(fixed, _Q4_K, _Q4_K_BLOCK, _Q4_K_BLOCK)
        with _memory(fixed, buffer_type, backend.device):
            product = _multiply(changing, matrix, _tensor_2d(changing, _F32, _Q4_K_BLOCK, 1))
            return buffer_type if supports(backend.handle, product) else None


def _extra_buffer_type(name: bytes) -> int | None:
    """Return a buffer type that the CPU's backend has beside plain memory, by name."""
    registry = ggml_function("ggml_backend_dev_backend_reg", _pointer, _pointer)(cpu_handle())
    find = ggml_function("ggml_backend_reg_get_proc_address", _pointer, _pointer, ctypes.c_char_p)
    found = find(registry, b"ggml_backend_dev_get_extra_bufts")
    if not found:
        return None
    name_of = ggml_function("ggml_backend_buft_name", ctypes.c_char_p, _pointer)
    extra = ctypes.CFUNCTYPE(ctypes.POINTER(_pointer), _pointer)(found)(cpu_handle())
    types = itertools.takewhile(bool, (extra[n] for n in itertools.count())) if extra else ()
    return next((int(one) for one in types if name_of(one) == name), None)

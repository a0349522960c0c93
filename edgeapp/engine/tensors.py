"""ggml's tensors as C lays them out, and their data copied from whatever memory they are in.

The layout changes with ggml, so `check_layout` compares it with what ggml's own functions say. numpy is
imported with this module, which only a worker that collects activations loads.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgeapp.engine.bindings import ggml_function
from edgeapp.errors import BindingMismatch

if TYPE_CHECKING:
    from numpy.typing import NDArray

F32, I32 = 0, 26  # ggml.h, enum ggml_type
_DTYPES = {F32: np.dtype(np.float32), I32: np.dtype(np.int32)}
_MAX_DIMS, _MAX_SRC, _MAX_OP_PARAMS_BYTES, _MAX_NAME_BYTES = 4, 10, 64, 64  # ggml.h, GGML_MAX_*
_MAX_OPS = 256


class Tensor(ctypes.Structure):
    """ggml.h, struct ggml_tensor. `ne` counts elements and `nb` bytes, the row length first."""

    _fields_: ClassVar = [
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * _MAX_DIMS),
        ("nb", ctypes.c_size_t * _MAX_DIMS),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * (_MAX_OP_PARAMS_BYTES // 4)),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * _MAX_SRC),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * _MAX_NAME_BYTES),
        ("extra", ctypes.c_void_p),
        ("padding", ctypes.c_char * 8),
    ]

    def source(self, index: int) -> Tensor:
        return Tensor.from_address(self.src[index])

    @property
    def weight_name(self) -> str:
        """The name without the scheduler's marks: `CUDA0#blk.0.attn_k.weight#0` is a copy of a weight."""
        name: str = self.name.decode("utf-8", "replace")
        _, mark, rest = name.partition("#")
        return rest.partition("#")[0] if mark else name


def values(tensor: Tensor) -> NDArray[np.generic]:
    """Copy an F32 or I32 tensor, from a GPU if need be; numpy's shape is ggml's reversed."""
    n_bytes = ggml_function("ggml_nbytes", ctypes.c_size_t, ctypes.c_void_p)(ctypes.addressof(tensor))
    data = np.empty(n_bytes, dtype=np.uint8)
    get = ggml_function(
        *("ggml_backend_tensor_get", None),
        *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t),
    )
    get(ctypes.addressof(tensor), data.ctypes.data, 0, n_bytes)
    dtype = _DTYPES[tensor.type]
    return np.lib.stride_tricks.as_strided(
        data[: n_bytes // dtype.itemsize * dtype.itemsize].view(dtype),
        shape=tuple(tensor.ne[::-1]),
        strides=tuple(tensor.nb[::-1]),
        writeable=False,
    )


def op_named(name: str) -> int:
    """Return the number of the graph operation `name`, such as MUL_MAT."""
    op_name = ggml_function("ggml_op_name", ctypes.c_char_p, ctypes.c_int)
    for op in range(_MAX_OPS):
        if op_name(op) == name.encode():
            return op
    raise BindingMismatch(
        f"ggml knows no operation {name}.", hint="`make clean run` builds the engine again."
    )


class _InitParams(ctypes.Structure):
    """ggml.h, struct ggml_init_params."""

    _fields_: ClassVar = [
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    ]


def check_layout() -> None:
    """Build a small graph with ggml's functions and read it back. Raise `BindingMismatch`."""
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    # GGML_OBJECT_SIZE is 32 bytes; ggml's own size of a tensor is what remains.
    is_as_large = ggml_function("ggml_tensor_overhead", ctypes.c_size_t)() - 32 == ctypes.sizeof(Tensor)
    context = ggml_function("ggml_init", pointer, _InitParams)(_InitParams(1 << 16, None, True))
    new_tensor = ggml_function("ggml_new_tensor_3d", pointer, pointer, ctypes.c_int, size, size, size)
    weight, rows = new_tensor(context, F32, 32, 5, 3), new_tensor(context, F32, 32, 7, 3)
    ggml_function("ggml_set_name", pointer, pointer, ctypes.c_char_p)(weight, b"CUDA0#blk.0.ffn.weight#0")
    product = ggml_function("ggml_mul_mat", pointer, pointer, pointer, pointer)(context, weight, rows)
    found = _description(product, weight)
    ggml_function("ggml_free", None, pointer)(context)
    expected = (op_named("MUL_MAT"), [5, 7, 3, 1], [4, 20, 140, 420], [weight, rows], "blk.0.ffn.weight")
    if not is_as_large or found != expected:
        raise BindingMismatch(
            "ggml's tensors have another layout than edgeapp expects.",
            hint="`make clean run` builds the engine again.",
        )


def _description(product: int, weight: int) -> tuple[int, list[int], list[int], list[int], str]:
    node = Tensor.from_address(product)
    return (node.op, list(node.ne), list(node.nb), node.src[:2], Tensor.from_address(weight).weight_name)

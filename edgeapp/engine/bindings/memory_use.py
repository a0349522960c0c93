"""What a context and its model take of each device, by llama.cpp's own account.

`llama_get_memory_breakdown` (src/llama-ext.h) is C++ and returns a `std::map`. Its tree is read here as
libstdc++ lays it out, which the pinned version of the binding and Linux make safe to rely on; a tree that
does not add up is a `BindingMismatch`.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from typing import TYPE_CHECKING

from edgeapp.engine.bindings.devices import buffer_type_device
from edgeapp.engine.bindings.library import ggml_function
from edgeapp.errors import BindingMismatch
from edgeapp.protocol import BufferUse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeapp.engine.bindings.context import ContextHandle

_BREAKDOWN = "_Z26llama_get_memory_breakdownPK13llama_context"
_DELETE = "_ZdlPv"  # operator delete(void *)
_MAX_BUFFER_TYPES = 1000


class _Map(ctypes.Structure):
    """libstdc++, std::map: the header of its red-black tree (bits/stl_tree.h, _Rb_tree_header)."""

    _fields_ = (
        ("compare", ctypes.c_size_t),
        ("color", ctypes.c_size_t),
        ("root", ctypes.c_void_p),
        ("leftmost", ctypes.c_void_p),
        ("rightmost", ctypes.c_void_p),
        ("n_nodes", ctypes.c_size_t),
    )


class _Node(ctypes.Structure):
    """A node with `pair<ggml_backend_buffer_type_t, llama_memory_breakdown_data>`."""

    _fields_ = (
        ("color", ctypes.c_size_t),
        ("parent", ctypes.c_void_p),
        ("left", ctypes.c_void_p),
        ("right", ctypes.c_void_p),
        ("buffer_type", ctypes.c_void_p),
        ("weights_bytes", ctypes.c_size_t),
        ("kv_bytes", ctypes.c_size_t),
        ("compute_bytes", ctypes.c_size_t),
    )


def memory_use(context: ContextHandle) -> tuple[BufferUse, ...]:
    """Return bytes for each device that holds something, host memory ("CPU") first.

    `weights_bytes` counts a mapped file's used range as well, and includes all contexts of the model once.
    Logits (`n_outputs` x `n_vocab` floats of host memory) are not counted. For a model that was loaded
    without its weights (`no_alloc`) the figures are what it would take.
    """
    tree: _Map = ggml_function(_BREAKDOWN, _Map, ctypes.c_void_p)(context)
    if tree.n_nodes > _MAX_BUFFER_TYPES:
        raise BindingMismatch("llama.cpp's account of its memory has another layout than expected.")
    nodes = list(_walk(tree.root))
    if len(nodes) != tree.n_nodes:
        raise BindingMismatch("llama.cpp's account of its memory has another layout than expected.")
    weights, kv, compute = Counter[str](), Counter[str](), Counter[str]()
    for node in nodes:
        name = buffer_type_device(node.buffer_type)
        weights[name] += node.weights_bytes
        kv[name] += node.kv_bytes
        compute[name] += node.compute_bytes
        ggml_function(_DELETE, None, ctypes.c_void_p)(ctypes.addressof(node))
    uses = (
        BufferUse(device=name, weights_bytes=weights[name], kv_bytes=kv[name], compute_bytes=compute[name])
        for name in sorted(weights, key=lambda name: (name != "CPU", name))
    )
    return tuple(use for use in uses if use.weights_bytes or use.kv_bytes or use.compute_bytes)


def _walk(address: int | None) -> Iterator[_Node]:
    if address:
        node = _Node.from_address(address)
        yield from _walk(node.left)
        yield node
        yield from _walk(node.right)

"""Count which experts each layer uses, by watching the one small tensor that says so.

llama.cpp calls back for every node of its graph, a thousand times a token, so a node that is not wanted is
told by its type alone, and a decoded token's experts are noted as bytes and counted later, many at once.
numpy is imported with this module. Knows no request and no text.
"""

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from edgeapp.engine import bindings, tensors
from edgeapp.engine.tensors import I32, Tensor
from edgeapp.errors import EngineError
from edgeapp.protocol import LayerUsage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_TOPK = b"ffn_moe_topk-"  # llama.cpp src/llama-graph.cpp, build_moe_ffn; the layer's number follows
_NAME_OFFSET = Tensor.name.offset
_NAME_BYTES = Tensor.name.size
_MAX_NOTED_BYTES = 1 << 20
"""Bytes of noted experts after which they are counted although nobody has asked."""
_number_at = ctypes.c_int.from_address


class ExpertUsageCounter:
    """Give `callback` to the context; while `is_active`, what the routers choose is counted.

    `n_expert` is the number of routed experts of a layer.
    """

    def __init__(self, *, n_expert: int) -> None:
        tensors.check_layout()
        self.callback = bindings.watch_callback(self.watch)
        self.is_active = False
        self._n_expert = n_expert
        self._layers: dict[bytes, int] = {}
        self._noted: dict[int, bytearray] = {}
        self._n_noted_bytes = 0
        self._counts: dict[int, NDArray[np.int64]] = {}
        self._n_rows: dict[int, int] = {}
        self._problem: Exception | None = None
        self._n_bytes = bindings.ggml_function("ggml_nbytes", ctypes.c_size_t, ctypes.c_void_p)
        self._copy = bindings.ggml_function(
            *("ggml_backend_tensor_get", None),
            *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t),
        )

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count from zero in the block, whatever was going on before; `take` inside it."""
        was_active, self.is_active = self.is_active, True
        self._reset()
        try:
            yield
        finally:
            self.is_active = was_active
            self._reset()

    def take(self) -> tuple[int, tuple[LayerUsage, ...]]:
        """Return the tokens and each layer's counts since the last call, and begin again at zero.

        Without logits for every token llama.cpp computes only those that have them in the last layer, whose
        counts are then lower. Raise what went wrong inside a callback, from where it could not be raised.
        """
        self._count_noted()
        problem, counts, n_tokens = self._problem, self._counts, max(self._n_rows.values(), default=0)
        self._reset()
        if problem is not None:
            raise EngineError(f"The use of the experts could not be read: {problem}.") from problem
        return n_tokens, tuple(
            LayerUsage(layer=layer, counts=tuple(counts[layer].tolist())) for layer in sorted(counts)
        )

    def watch(self, node: int, ask: bool) -> bool:  # noqa: FBT001 - the engine's callback
        """Answer whether a graph node says which experts are used, then note them. Never raises."""
        if ask:
            return self.is_active and _number_at(node).value == I32 and _name_at(node).startswith(_TOPK)
        try:
            self._note(node)
        except Exception as problem:  # noqa: BLE001 - an exception cannot pass through C
            self._problem = problem
        return True

    def _note(self, node: int) -> None:
        name = _name_at(node)
        layer = self._layers.get(name)
        if layer is None:
            layer = self._layers[name] = int(name[len(_TOPK) :])
        tensor = Tensor.from_address(node)
        n_used, n_rows = tensor.ne[:2]
        n_bytes = self._n_bytes(node)
        buffer = ctypes.create_string_buffer(n_bytes)
        self._copy(node, buffer, 0, n_bytes)
        data = buffer.raw
        self._n_rows[layer] = self._n_rows.get(layer, 0) + n_rows
        if n_rows > 1:
            rows = np.ndarray((n_rows, n_used), np.int32, buffer=data, strides=(tensor.nb[1], tensor.nb[0]))
            self._count(layer, rows.ravel())
            return
        noted = self._noted.get(layer)
        if noted is None:
            noted = self._noted[layer] = bytearray()
        noted += data
        self._n_noted_bytes += n_bytes
        if self._n_noted_bytes > _MAX_NOTED_BYTES:
            self._count_noted()

    def _count_noted(self) -> None:
        for layer, noted in self._noted.items():
            self._count(layer, np.frombuffer(noted, dtype=np.int32))
        self._noted, self._n_noted_bytes = {}, 0

    def _count(self, layer: int, experts: NDArray[np.int32]) -> None:
        used = np.bincount(experts, minlength=self._n_expert)
        if len(used) > self._n_expert:
            self._problem = ValueError(f"layer {layer} uses expert {len(used) - 1} of {self._n_expert}")
            return
        known = self._counts.get(layer)
        self._counts[layer] = used if known is None else known + used

    def _reset(self) -> None:
        self._noted, self._n_noted_bytes = {}, 0
        self._counts, self._n_rows, self._problem = {}, {}, None


def _name_at(node: int) -> bytes:
    return ctypes.string_at(node + _NAME_OFFSET, _NAME_BYTES).partition(b"\0")[0]

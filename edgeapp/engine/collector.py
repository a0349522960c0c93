"""Add up the squared inputs of every weight while the model computes: llama.cpp's importance matrix.

Follows llama.cpp's tools/imatrix/imatrix.cpp: the same tensors, the same rows, and for experts a sum and a
count each. The sums are kept in float64. Knows tensors and files, no request and no text.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import gguf
import numpy as np

from edgeapp.engine import bindings, tensors
from edgeapp.engine.tensors import Tensor
from edgeapp.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

MIN_ROWS = 16
"""Fewer rows of a dense tensor are left out, as in imatrix.cpp: they come from single tokens."""
_MAX_F16 = 65504.0


@dataclass(kw_only=True)
class _Sums:
    """`squares` [n_matrix, columns]; `counts` [n_expert], or [1] for a dense tensor, stacked or not."""

    squares: NDArray[np.float64]
    counts: NDArray[np.int64]


class Collector:
    """Give `callback` to the context; what is computed inside `collecting` counts."""

    def __init__(self) -> None:
        tensors.check_layout()
        self.callback = bindings.watch_callback(self.watch)
        self._mul_mat, self._mul_mat_id = tensors.op_named("MUL_MAT"), tensors.op_named("MUL_MAT_ID")
        self._sums: dict[str, _Sums] = {}
        self._kept: dict[str, BinaryIO] = {}
        self._is_active = False
        self._problem: Exception | None = None
        self.n_tokens = 0

    @contextmanager
    def collecting(self, keep_inputs: Sequence[str] = (), folder: str = "") -> Iterator[None]:
        """Count what is computed in the block; inputs of `keep_inputs` are appended to files in `folder`."""
        with ExitStack() as stack:
            for index, name in enumerate(keep_inputs):
                self._kept[name] = stack.enter_context(Path(folder, f"{index}.f16").open("ab"))
            self._is_active = True
            try:
                yield
            finally:
                self._is_active = False
                self._kept.clear()

    def check(self) -> None:
        """Raise what went wrong inside a callback, from where it could not be raised."""
        problem, self._problem = self._problem, None
        if problem is not None:
            raise EngineError(f"The activations could not be collected: {problem}.") from problem

    def watch(self, node: int, ask: bool) -> bool:  # noqa: FBT001 - the engine's callback
        """Answer whether a graph node is wanted, then take its inputs. Never raises."""
        if not self._is_active or self._problem is not None:
            return not ask
        try:
            tensor = Tensor.from_address(node)
            if ask:
                return self._is_wanted(tensor)
            self._take(tensor)
        except Exception as problem:  # noqa: BLE001 - an exception cannot pass through C
            self._problem = problem
        return True

    def _is_wanted(self, node: Tensor) -> bool:
        if node.op == self._mul_mat_id:
            return True
        if node.op != self._mul_mat:
            return False
        name, rows = node.source(0).weight_name, node.source(1)
        if rows.type != tensors.F32:
            return False
        return name in self._kept or (name.startswith("blk.") and rows.ne[1] >= MIN_ROWS)

    def _take(self, node: Tensor) -> None:
        weight = node.source(0)
        name = weight.weight_name
        inputs = np.asarray(tensors.values(node.source(1)), dtype=np.float32)
        if name in self._kept:
            self._kept[name].write(_float16_rows(inputs))
        if node.op == self._mul_mat_id:
            ids = np.asarray(tensors.values(node.source(2)), dtype=np.int32)[0, 0]
            squares, counts = _expert_squares(inputs[0], ids, n_expert=weight.ne[2])
        elif inputs.shape[2] >= MIN_ROWS:
            squares, counts = _dense_squares(inputs, shape=(weight.ne[3], weight.ne[2]))
        else:
            return
        self._add(name, squares, counts)

    def _add(self, name: str, squares: NDArray[np.float64], counts: NDArray[np.int64]) -> None:
        if not np.isfinite(squares).all():
            raise ValueError(f"an input of {name} is not a finite number")
        known = self._sums.get(name)
        if known is None:
            self._sums[name] = _Sums(squares=squares, counts=counts)
        else:
            known.squares += squares
            known.counts += counts

    def write(self, path: str, *, datasets: Sequence[str], chunk_size: int) -> None:
        """Write the sums as an importance matrix that llama-quantize reads. Raise `EngineError` for none."""
        if not self._sums:
            raise EngineError("No activations have been collected.", hint="Give a longer text.")
        n_chunks = max(int(sums.counts.max()) for sums in self._sums.values()) // chunk_size
        writer = gguf.GGUFWriter(path, "")
        # As in llama.cpp an importance matrix has no architecture.
        writer.kv_data[0].pop("general.architecture", None)
        writer.add_type("imatrix")
        writer.add_array("imatrix.datasets", list(datasets) or [""])
        writer.add_uint32("imatrix.chunk_count", n_chunks)
        writer.add_uint32("imatrix.chunk_size", chunk_size)
        for name, (squares, counts) in sorted(_as_stored(self._sums).items()):
            writer.add_tensor(f"{name}.in_sum2", squares)
            writer.add_tensor(f"{name}.counts", counts)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _float16_rows(inputs: NDArray[np.float32]) -> bytes:
    rows = inputs.reshape(-1, inputs.shape[-1])
    return np.clip(rows, -_MAX_F16, _MAX_F16).astype(np.float16).tobytes()


def _expert_squares(
    inputs: NDArray[np.float32], ids: NDArray[np.int32], *, n_expert: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the squares [n_expert, columns] and counts [n_expert] of routed rows.

    `inputs` is [n_tokens, 1 or n_expert_used, columns]: one row for all chosen experts, or one for each.
    `ids` is [n_tokens, n_expert_used].
    """
    n_tokens, n_used = ids.shape
    chosen = np.zeros((n_expert, n_tokens, n_used), dtype=np.float32)
    np.put_along_axis(chosen, ids[np.newaxis].astype(np.int64), 1, axis=0)
    n_rows = inputs.shape[1]
    if n_rows not in {1, n_used}:
        raise ValueError(f"{n_rows} rows for {n_used} experts")
    by_row = chosen if n_rows == n_used else chosen.sum(axis=2, keepdims=True)
    squares = by_row.reshape(n_expert, -1) @ np.square(inputs).reshape(n_tokens * n_rows, -1)
    return squares.astype(np.float64), chosen.sum(axis=(1, 2)).astype(np.int64)


def _dense_squares(
    inputs: NDArray[np.float32], *, shape: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return squares [n_matrix, columns] and their count [1]. `inputs` is [n3, n2, rows, columns].

    `shape` are the outer two dimensions of the weight. A weight with fewer matrices than the inputs have is
    used for several of them.
    """
    w3, w2 = shape
    n3, n2, n_rows, columns = inputs.shape
    sums = np.einsum("abrc,abrc->abc", inputs, inputs, dtype=np.float64)
    by_matrix = np.zeros((w3 * w2, columns))
    matrix = np.arange(n3)[:, np.newaxis] % w3 * w2 + np.arange(n2) % w2
    np.add.at(by_matrix, matrix.ravel(), sums.reshape(-1, columns))
    return by_matrix, np.array([n3 * n2 * n_rows // (w3 * w2)])


def _as_stored(
    sums: Mapping[str, _Sums],
) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Return float32 matrices [n_count, -1] and counts [n_count, 1], as imatrix.cpp writes them."""
    return {
        name: (
            found.squares.reshape(len(found.counts), -1).astype(np.float32),
            found.counts.reshape(-1, 1).astype(np.float32),
        )
        for name, found in sums.items()
    }

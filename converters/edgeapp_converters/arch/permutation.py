"""Query and key weights in the order in which llama.cpp's `llama` graphs rotate them. Knows no family.

transformers rotates dimension i of a head together with i + n/2, llama.cpp's oldest graphs (those of
LLAMA_ROPE_TYPE_NORM) 2i together with 2i + 1; so the rows of a head are interleaved
(llama.cpp, conversion/llama.py, permute).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeapp.errors import InvalidCheckpoint

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgeapp_converters.arch.assembly import Assembly


def copy_interleaved(assembly: Assembly, target: str, source: str, n_head: int) -> None:
    """`target.weight` from `source.weight`, and the biases if there are any."""
    rows, _ = assembly.require_matrix(f"{source}.weight")
    if n_head < 1 or rows % (2 * n_head):
        raise InvalidCheckpoint(f"{source}.weight has {rows} rows, which {n_head} heads cannot share evenly.")
    order = interleaved(rows, n_head)
    assembly.copy(f"{target}.weight", f"{source}.weight", row_order=order)
    if f"{source}.bias" in assembly:
        assembly.copy(f"{target}.bias", f"{source}.bias", column_order=order)


def interleaved(n_rows: int, n_head: int) -> npt.NDArray[np.int64]:
    """For every row of llama.cpp's order, the row of transformers' order."""
    pairs = np.arange(n_rows, dtype=np.int64).reshape(n_head, 2, n_rows // n_head // 2)
    return pairs.swapaxes(1, 2).reshape(-1)

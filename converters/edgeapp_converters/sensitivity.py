"""How much each tensor's output suffers from each type: measured on a sample of its rows.

For y = W x the relative error is E‖ΔW x‖² / E‖W x‖², with inputs taken as uncorrelated: their mean squares
are the importance matrix, ones without it. Routed experts count by their share of the tokens. Reads weights
and runs the quantiser; knows no budget and chooses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from gguf import GGMLQuantizationType

from edgeapp_converters import ggml
from edgeapp_converters.crew import work_through
from edgeapp_converters.events import StageProgress
from edgeapp_converters.llama_quantize import allows_quantisation
from edgeapp_converters.rows import read_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt

    from edgeapp_converters.events import Report
    from edgeapp_converters.imatrix import Imatrix
    from edgeapp_converters.plan import Part, TensorPlan
    from edgeapp_converters.scratch import Scratch
    from edgeapp_converters.source import TensorSource

    Floats = npt.NDArray[np.float32]

Q = GGMLQuantizationType
CANDIDATES = (Q.Q3_K, Q.IQ4_XS, Q.Q4_K, Q.Q5_K, Q.Q6_K, Q.Q8_0)
NARROW_CANDIDATES = (Q.IQ4_NL, Q.Q5_0, Q.Q5_1, Q.Q8_0)
"""For rows that are a multiple of 32, but not of 256."""
_SAMPLE_ELEMENTS = 1 << 17
"""Of each tensor, at least one row of each part: 0.06 s a tensor for all candidates on one core."""
_RUN_ROWS = 4
"""Rows that are read together: a transposed or blockwise scaled source reads more than one anyway."""


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """One tensor's relative output error (0 exact, 1 as large as the output) for each type it may have."""

    tensor: TensorPlan
    errors: Mapping[GGMLQuantizationType, float]


def candidates(tensor: TensorPlan) -> tuple[GGMLQuantizationType, ...]:
    """Return the types that `tensor` may get, none where its type is not to be chosen."""
    if tensor.fixed_type is not None or not tensor.parts or not allows_quantisation(tensor):
        return ()
    for types in (CANDIDATES, NARROW_CANDIDATES):
        if all(tensor.columns % ggml.block_size(kind) == 0 for kind in types):
            return types
    return ()


def measure(
    tensors: Sequence[TensorPlan],
    source: TensorSource,
    imatrix: Imatrix | None,
    *,
    n_threads: int,
    report: Report,
) -> tuple[Sensitivity, ...]:
    """Return the sensitivity of all tensors that have `candidates`, in their order.

    The same for any number of threads. Fetches all shards of `source`. Raise `ModelError` for damaged ones.
    """
    for shard in source.shards:
        source.fetch(shard)
    chosen = [tensor for tensor in tensors if candidates(tensor)]
    ggml.prepare({kind for tensor in chosen for kind in candidates(tensor)})
    found: dict[int, Sensitivity] = {}

    def work(task: tuple[int, TensorPlan], scratch: Scratch) -> None:
        index, tensor = task
        found[index] = _sensitivity(tensor, source, imatrix, scratch)

    for _ in work_through(iter(enumerate(chosen)), work, n_threads=n_threads):
        report(_progress(len(found), len(chosen)))
    report(_progress(len(chosen), len(chosen)))
    return tuple(found[index] for index in range(len(chosen)))


def sampled_rows(n_rows: int, n_wanted: int) -> Iterator[tuple[int, int]]:
    """Yield (first, count) of runs of rows, evenly spread over `n_rows`; in all about `n_wanted`."""
    run = min(_RUN_ROWS, max(n_wanted, 1), n_rows)
    n_runs = max(min(n_wanted, n_rows) // run, 1)
    for index in range(n_runs):
        yield (
            (2 * index + 1) * n_rows // (2 * n_runs) - run // 2 if n_runs * run < n_rows else index * run,
            run,
        )


def _progress(done: int, total: int) -> StageProgress:
    return StageProgress(stage="measuring", done=done, total=total, unit="tensors", label="sensitivity")


def _sensitivity(
    tensor: TensorPlan, source: TensorSource, imatrix: Imatrix | None, scratch: Scratch
) -> Sensitivity:
    kinds = candidates(tensor)
    noise, signal = np.zeros(len(kinds)), 0.0
    n_wanted = _SAMPLE_ELEMENTS // tensor.columns
    for part in tensor.parts:
        share = _token_share(tensor.name, part.expert, imatrix) * part.n_rows
        importance = imatrix.row(tensor.name, part.expert, columns=tensor.columns) if imatrix else None
        rows = _sample(part, source, n_wanted * part.n_rows // tensor.n_rows, tensor.columns, scratch)
        signal += share * _power(rows, importance)
        for index, kind in enumerate(kinds):
            noise[index] += share * _power(rows - _rounded(rows, kind, importance, scratch), importance)
    errors = noise / signal if signal > 0 else noise * 0
    return Sensitivity(tensor=tensor, errors=dict(zip(kinds, errors.tolist(), strict=True)))


def _token_share(name: str, expert: int, imatrix: Imatrix | None) -> float:
    """How many of the tokens go through `expert`, relative to the mean expert of the tensor."""
    counts = imatrix.counts.get(name) if imatrix else None
    if counts is None or len(counts) == 1 or not counts.sum():
        return 1.0
    return float(counts[expert] / counts.mean())


def _sample(part: Part, source: TensorSource, n_wanted: int, columns: int, scratch: Scratch) -> Floats:
    runs = list(sampled_rows(part.n_rows, n_wanted))
    rows = scratch.floats("sampled", sum(n for _, n in runs) * columns).reshape(-1, columns)
    filled = 0
    for first, n in runs:
        read_rows(source, part, first, n, columns, rows[filled : filled + n], scratch=scratch)
        filled += n
    return rows


def _rounded(rows: Floats, kind: GGMLQuantizationType, importance: Floats | None, scratch: Scratch) -> Floats:
    encoded = scratch.octets("encoded", len(rows) * ggml.row_bytes(kind, rows.shape[1]))
    ggml.quantize(kind, rows, encoded, importance)
    rounded = scratch.floats("rounded", rows.size).reshape(rows.shape)
    ggml.widen(kind, encoded, rounded)
    return rounded


def _power(rows: Floats, importance: Floats | None) -> float:
    """Mean over rows of Σ_j importance_j · w_j²."""
    squares = np.square(rows, dtype=np.float64).mean(axis=0)
    return float(squares.sum() if importance is None else squares @ importance)

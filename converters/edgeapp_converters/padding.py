"""Place a dense model's matrices in larger ones without changing the function they compute. Pure.

Rows of 576 numbers are no whole number of K-quant blocks, so such a model never becomes a real Q4_K one.
With zeros added up to a multiple of 256 it does:

- the hidden state gets columns that are always zero. RMSNorm divides by the root of the mean square, which
  zeros lower by H/P, so the gains are multiplied by √(H/P) and epsilon by H/P;
- each key-value head gets query heads that are zero, whose output is multiplied by zeros;
- the FFN gets channels with gate, up and down zero: silu(0) · 0 = 0.

Also undoes llama.cpp's order of rotary rows: checkpoints of LLaMA's family keep the two numbers that are
rotated together half a head apart, llama.cpp keeps them side by side (conversion/llama.py, permute).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Index = npt.NDArray[np.int64]
_ZERO = -1


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """The sizes that shape a dense transformer's matrices."""

    n_embd: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_ff: int

    def padded(self, multiple: int) -> Geometry:
        """Return the smallest sizes whose rows are multiples of `multiple`, with the same key-value heads."""
        group = self.n_head // self.n_head_kv
        while group * self.n_head_kv * self.head_dim % multiple:
            group += 1
        return replace(
            self,
            n_embd=-(-self.n_embd // multiple) * multiple,
            n_head=group * self.n_head_kv,
            n_ff=-(-self.n_ff // multiple) * multiple,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Placement:
    """Where each row and column of a padded matrix comes from; -1 is a row or column of zeros."""

    rows: Index
    columns: Index
    scale: float = 1.0

    def place(self, source: npt.NDArray[np.float32], first: int, last: int) -> npt.NDArray[np.float32]:
        """Return the padded rows `first` … `last - 1`; `source` holds the source's rows that `span` names."""
        wanted = self.rows[first:last]
        placed = np.zeros((last - first, len(self.columns)), dtype=np.float32)
        start, _ = self.span(first, last)
        into_rows, into_columns = np.flatnonzero(wanted != _ZERO), np.flatnonzero(self.columns != _ZERO)
        taken = source[wanted[into_rows] - start][:, self.columns[into_columns]]
        placed[np.ix_(into_rows, into_columns)] = taken * np.float32(self.scale)
        return placed

    def span(self, first: int, last: int) -> tuple[int, int]:
        """Return the range of source rows that the padded rows `first` … `last - 1` need; may be empty."""
        needed = self.rows[first:last]
        needed = needed[needed != _ZERO]
        return (int(needed.min()), int(needed.max()) + 1) if needed.size else (0, 0)


@dataclass(frozen=True, kw_only=True)
class Padding:
    """From the sizes of a dense model to padded ones."""

    dense: Geometry
    padded: Geometry

    @property
    def mean_square_ratio(self) -> float:
        """By how much the zeros lower the mean square of the hidden state: H/P."""
        return self.dense.n_embd / self.padded.n_embd

    def gains(self) -> Placement:
        """Of an RMSNorm, a matrix of one row."""
        return Placement(rows=_kept(1, 1), columns=self._hidden(), scale=math.sqrt(self.mean_square_ratio))

    def embedding(self, n_vocab: int) -> Placement:
        return Placement(rows=_kept(n_vocab, n_vocab), columns=self._hidden())

    def query(self) -> Placement:
        rotary = rotary_rows(self.dense.n_head, self.dense.head_dim)
        return Placement(rows=self._query_heads(rotary), columns=self._hidden())

    def key(self) -> Placement:
        return Placement(rows=rotary_rows(self.dense.n_head_kv, self.dense.head_dim), columns=self._hidden())

    def value(self) -> Placement:
        n_rows = self.dense.n_head_kv * self.dense.head_dim
        return Placement(rows=_kept(n_rows, n_rows), columns=self._hidden())

    def attention_output(self) -> Placement:
        plain = np.arange(self.dense.n_head * self.dense.head_dim)
        return Placement(rows=self._hidden(), columns=self._query_heads(plain))

    def ffn_in(self) -> Placement:
        """Of gate and up."""
        return Placement(rows=self._ffn(), columns=self._hidden())

    def ffn_out(self) -> Placement:
        """Of down."""
        return Placement(rows=self._hidden(), columns=self._ffn())

    def _hidden(self) -> Index:
        return _kept(self.dense.n_embd, self.padded.n_embd)

    def _ffn(self) -> Index:
        return _kept(self.dense.n_ff, self.padded.n_ff)

    def _query_heads(self, order: Index) -> Index:
        """Append zero heads to those of each key-value head. `order` lists the source rows of all heads."""
        dense, padded = self.dense, self.padded
        groups = order.reshape(dense.n_head_kv, -1)
        n_zeros = (padded.n_head - dense.n_head) * dense.head_dim // dense.n_head_kv
        return np.pad(groups, ((0, 0), (0, n_zeros)), constant_values=_ZERO).reshape(-1)


def rotary_rows(n_head: int, head_dim: int) -> Index:
    """Return for each row of a checkpoint's q or k matrix the row of llama.cpp's that it is."""
    side_by_side = np.arange(n_head * head_dim).reshape(n_head, head_dim // 2, 2)
    return side_by_side.swapaxes(1, 2).reshape(-1)


def _kept(n_kept: int, n_all: int) -> Index:
    index = np.full(n_all, _ZERO, dtype=np.int64)
    index[:n_kept] = np.arange(n_kept)
    return index

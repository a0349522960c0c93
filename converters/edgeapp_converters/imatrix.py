"""The importance matrix: how large the inputs of every weight are, in llama.cpp's GGUF format.

Reading gives the very numbers that llama-quantize would use; `shrunk` improves those of experts that saw few
tokens. Knows no model and no quantiser; the sums are made by `edgeapp_converters.collect`.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import gguf
import numpy as np

from edgeapp import durable
from edgeapp.cleantext import clean_line
from edgeapp.errors import InvalidModel, ModelError
from edgeapp.gguf_info.header import STRING_TYPE
from edgeapp.gguf_info.parts import read_header
from edgeapp_converters.imatrix_entries import ShrunkEntries, StoredEntries, StoredSums

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from edgeapp.gguf_info.header import Header, Tensor

    Matrix = NDArray[np.float32]
    """[rows, columns]"""
    Counts = NDArray[np.float32]
    """[rows]"""

SHRINK_TOKENS = 64.0
"""How many tokens the layer's mean counts for, beside those that an expert saw itself."""
_MAX_DATASETS = 1000
_F32 = np.dtype(np.float32)
_SUMS, _COUNTS = ".in_sum2", ".counts"
_HINT = "Make a new one: edgeapp convert MODEL --calibrate prose, or llama-imatrix."


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How well the calibration text reached one tensor's experts."""

    name: str
    n_expert: int
    n_unseen: int
    fewest_tokens: int
    """Of the experts that were seen at all."""
    median_tokens: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Imatrix:
    """Mean squared inputs by tensor name (`blk.0.ffn_down_exps.weight`).

    `entries` hold [n_expert or 1, columns], `counts` [n_expert or 1]: the rows each mean was taken over.
    """

    entries: Mapping[str, Matrix]
    counts: Mapping[str, Counts]
    datasets: tuple[str, ...] = ()
    chunk_size: int = 512
    """Tokens that were computed as one sequence."""

    def row(self, name: str, expert: int, *, columns: int = 0) -> NDArray[np.float32] | None:
        """Return the importance of the columns of one expert's rows; None when the tensor is unknown.

        A tensor without experts has one row for all; if it is a stack of matrices (MLA's `attn_k_b`), their
        rows follow each other in it and `columns` cuts them apart.
        """
        entry: Matrix | None = self.entries.get(name)
        if entry is None:
            return None
        if columns and len(entry) == 1 and entry.shape[1] % columns == 0:
            entry = entry.reshape(-1, columns)
        row: NDArray[np.float32] = entry[expert if len(entry) > 1 else 0]
        return row

    def shrunk(self, k: float = SHRINK_TOKENS) -> Imatrix:
        """Return a matrix in which rarely used experts lean on the mean of their layer.

        w_e = (n_e · w_e + k · w_mean) / (n_e + k), where w_mean is the mean over all tokens of the layer. An
        expert without tokens gets the mean.
        """
        return replace(self, entries=ShrunkEntries(self.entries, self.counts, k))

    def coverage(self) -> tuple[Coverage, ...]:
        """Return how well each expert tensor was reached, in the order of the names."""
        experts = {name: counts for name, counts in sorted(self.counts.items()) if len(counts) > 1}
        return tuple(_coverage(name, counts) for name, counts in experts.items())


def read(path: Path) -> Imatrix:
    """Open a GGUF importance matrix and check all of it. Raise `ModelError`.

    The values are those of llama-quantize: sums divided by counts, and 1 for an expert without tokens
    (llama.cpp, tools/quantize/quantize.cpp, load_imatrix).
    """
    header = _header(path)
    tensors = {tensor.name: tensor for tensor in header.tensors}
    names = sorted(name.removesuffix(_SUMS) for name in tensors if name.endswith(_SUMS))
    if not names:
        raise InvalidModel(f"{header.shown} holds no importance matrix.", hint=_HINT)
    sums: dict[str, StoredSums] = {}
    counts: dict[str, Counts] = {}
    with path.open("rb") as file:
        for name in names:
            counts[name] = _floats(header, tensors.get(name + _COUNTS), file.fileno()).ravel()
            _floats(header, tensors[name + _SUMS], file.fileno())
            sums[name] = _counted(header, name, tensors[name + _SUMS], counts[name])
    return Imatrix(
        entries=StoredEntries(path, sums, counts),
        counts=counts,
        datasets=_datasets(header),
        chunk_size=header.integer("imatrix.chunk_size") or 512,
    )


def write(path: Path, imatrix: Imatrix) -> None:
    """Write `imatrix` as llama.cpp's GGUF; reading it gives the same values back.

    An expert without tokens that has values all the same, from `shrunk`, is written with a count of 1:
    llama.cpp would replace them otherwise.
    """
    part = path.with_name(f"{path.name}.part")
    writer = gguf.GGUFWriter(part, "")
    writer.kv_data[0].pop("general.architecture", None)  # llama.cpp writes none
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", list(imatrix.datasets) or [""])
    writer.add_uint32("imatrix.chunk_count", _n_chunks(imatrix))
    writer.add_uint32("imatrix.chunk_size", imatrix.chunk_size)
    names = sorted(imatrix.entries)
    for name in names:
        for suffix, shape in (
            (_SUMS, imatrix.entries[name].shape),
            (_COUNTS, (len(imatrix.counts[name]), 1)),
        ):
            n_bytes = math.prod(shape) * _F32.itemsize
            writer.add_tensor_info(name + suffix, shape, _F32, n_bytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name in names:
        entry = imatrix.entries[name]
        counts = _stored_counts(entry, imatrix.counts[name])
        writer.write_tensor_data(_sums(entry, counts))
        writer.write_tensor_data(counts.reshape(-1, 1))
    writer.close()
    with part.open("rb") as file:
        os.fsync(file.fileno())
    durable.move(part, path)


# Reading ---------------------------------------------------------------------------------------------------


def _header(path: Path) -> Header:
    try:
        header = read_header(path)
    except ModelError as problem:
        if path.is_file() and path.stat().st_size and not _is_gguf(path):
            raise InvalidModel(
                f"{clean_line(str(path))} is no GGUF; the old .dat format is not read.",
                hint="llama-imatrix --in-file OLD.dat -o NEW.gguf converts it. " + _HINT,
            ) from problem
        raise
    if header.text("general.type") not in {None, "imatrix"}:
        raise InvalidModel(f"{header.shown} is a GGUF, but not an importance matrix.", hint=_HINT)
    return header


def _is_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def _floats(header: Header, tensor: Tensor | None, fd: int) -> Matrix:
    """Read an F32 tensor as rows of its first dimension."""
    if tensor is None or tensor.type.name != "F32":
        raise InvalidModel(f"{header.shown}: sums and counts are not F32 in pairs.", hint=_HINT)
    data = os.pread(fd, tensor.n_bytes, header.data_offset_bytes + tensor.offset_bytes)
    if len(data) != tensor.n_bytes:
        raise InvalidModel(f"{header.shown} ends before {clean_line(tensor.name)}.", hint=_HINT)
    values = np.frombuffer(data, dtype="<f4")
    if not np.isfinite(values).all() or values.min() < 0:
        raise InvalidModel(
            f"{header.shown}: {clean_line(tensor.name)} holds a number that no sum of squares can be.",
            hint=_HINT,
        )
    return values.reshape(-1, tensor.shape[0])


def _counted(header: Header, name: str, sums: Tensor, counts: Counts) -> StoredSums:
    """Return where the sums of a tensor lie, one row for each count."""
    n_sums = sums.n_parameters
    if len(counts) == 0 or n_sums % len(counts):
        raise InvalidModel(
            f"{header.shown}: {clean_line(name)} has {n_sums} sums for {len(counts)} counts.", hint=_HINT
        )
    return StoredSums(
        offset_bytes=header.data_offset_bytes + sums.offset_bytes,
        n_rows=len(counts),
        columns=n_sums // len(counts),
    )


def _datasets(header: Header) -> tuple[str, ...]:
    span = header.array("imatrix.datasets")
    if span is None or span.type_id != STRING_TYPE:
        return ()
    texts: list[str] = []
    position = span.start
    for _ in range(min(span.count, _MAX_DATASETS)):
        start = position + 8
        position = start + int.from_bytes(header.raw[position:start], "little")
        texts.append(clean_line(header.raw[start:position].decode("utf-8", "replace"), max_chars=300))
    return tuple(texts)


# Arithmetic ------------------------------------------------------------------------------------------------


def _coverage(name: str, counts: Counts) -> Coverage:
    seen = counts[counts > 0]
    return Coverage(
        name=name,
        n_expert=len(counts),
        n_unseen=len(counts) - len(seen),
        fewest_tokens=int(seen.min()) if len(seen) else 0,
        median_tokens=int(np.median(counts)),
    )


def _n_chunks(imatrix: Imatrix) -> int:
    return int(max((counts.max() for counts in imatrix.counts.values()), default=0)) // imatrix.chunk_size


def _stored_counts(entry: Matrix, counts: Counts) -> Counts:
    is_filled = (counts == 0) & (entry != 1).any(axis=1)
    return np.where(is_filled, np.float32(1), counts).astype(np.float32)


def _sums(entry: Matrix, counts: Counts) -> Matrix:
    """Return sums that divide back to the very means: float32 keeps m when it came from a division by n."""
    return entry * counts.astype(np.float32)[:, np.newaxis]

"""A dense LLaMA-like GGUF, opened to be upcycled: its sizes, and its weights as F32 rows.

Refuses what an upcycled model could not express, so that the result never quietly computes something else.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from gguf import GGMLQuantizationType

from edgeapp.cleantext import clean_line
from edgeapp.errors import InvalidModel, ModelUnreadable, UnsupportedModel
from edgeapp.gguf_info import read_gguf_info
from edgeapp.gguf_info.parts import read_header
from edgeapp_converters import ggml
from edgeapp_converters.padding import Geometry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy.typing as npt

    from edgeapp.gguf_info import GgufInfo
    from edgeapp.gguf_info.header import Header, Tensor

ARCHITECTURE = "llama"
_HINT = "Upcycling takes plain dense models of the LLaMA family, such as SmolLM2."


@dataclass(frozen=True, kw_only=True)
class DenseModel:
    """A checked dense model whose file is open."""

    header: Header
    info: GgufInfo
    geometry: Geometry
    norm_epsilon: float
    rope_freq_base: float
    tensors: Mapping[str, Tensor]
    descriptor: int

    @property
    def has_output(self) -> bool:
        """Whether the output matrix is one of its own and not the token embedding."""
        return "output.weight" in self.tensors

    def read_rows(self, name: str, first: int, last: int) -> npt.NDArray[np.float32]:
        """Return the rows `first` … `last - 1` of a tensor. Raise `InvalidModel` if the file ends early."""
        tensor = self.tensors[name]
        kind = GGMLQuantizationType[tensor.type.name]
        row_bytes = ggml.row_bytes(kind, tensor.shape[0])
        data = np.empty((last - first) * row_bytes, np.uint8)
        start = self.header.data_offset_bytes + tensor.offset_bytes + first * row_bytes
        self._read(data.data, start)
        rows = np.empty((last - first, tensor.shape[0]), np.float32)
        ggml.widen(kind, data, rows)
        return rows

    def _read(self, into: memoryview, offset_bytes: int) -> None:
        while into:
            try:
                n_bytes = os.preadv(self.descriptor, [into], offset_bytes)
            except OSError as problem:
                raise ModelUnreadable(f"{self.header.shown} cannot be read: {problem.strerror}.") from problem
            if not n_bytes:
                raise InvalidModel(f"{self.header.shown} became shorter while it was read.")
            into, offset_bytes = into[n_bytes:], offset_bytes + n_bytes


@contextmanager
def open_dense(path: Path) -> Iterator[DenseModel]:
    """Open the dense GGUF at `path`. Raise `UnsupportedModel` if it cannot be upcycled, or `ModelError`."""
    info = read_gguf_info(path)
    header = read_header(path)
    _require_plain(info, header)
    geometry = _geometry(info, header)
    tensors = {tensor.name: tensor for tensor in header.tensors}
    _require_shapes(header, tensors, expected_shapes(geometry, n_layer=info.n_layer, n_vocab=info.n_vocab))
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield DenseModel(
            header=header,
            info=info,
            geometry=geometry,
            norm_epsilon=_number(header, "attention.layer_norm_rms_epsilon", default=None),
            rope_freq_base=_number(header, "rope.freq_base", default=10_000.0),
            tensors=tensors,
            descriptor=descriptor,
        )
    finally:
        os.close(descriptor)


def expected_shapes(geometry: Geometry, *, n_layer: int, n_vocab: int) -> dict[str, tuple[int, ...]]:
    """Return all tensors of a plain dense model with their shapes in ggml's order, row length first."""
    n_embd, n_ff = geometry.n_embd, geometry.n_ff
    n_embd_q = geometry.n_head * geometry.head_dim
    n_embd_kv = geometry.n_head_kv * geometry.head_dim
    layer: dict[str, tuple[int, ...]] = {
        "attn_norm": (n_embd,),
        "attn_q": (n_embd, n_embd_q),
        "attn_k": (n_embd, n_embd_kv),
        "attn_v": (n_embd, n_embd_kv),
        "attn_output": (n_embd_q, n_embd),
        "ffn_norm": (n_embd,),
        "ffn_gate": (n_embd, n_ff),
        "ffn_up": (n_embd, n_ff),
        "ffn_down": (n_ff, n_embd),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (n_embd, n_vocab),
        "output_norm.weight": (n_embd,),
        "output.weight": (n_embd, n_vocab),
    }
    for index in range(n_layer):
        shapes |= {f"blk.{index}.{name}.weight": shape for name, shape in layer.items()}
    return shapes


def _require_plain(info: GgufInfo, header: Header) -> None:
    if info.arch != ARCHITECTURE or info.is_moe:
        kind = "a MoE already" if info.is_moe else f"of the architecture {clean_line(info.arch)}"
        raise UnsupportedModel(f"{header.shown} is {kind} and cannot be upcycled.", hint=_HINT)
    if info.is_split:
        raise UnsupportedModel(f"{header.shown} is one of {len(info.parts)} parts.", hint=_HINT)
    scaling = header.values.get(f"{ARCHITECTURE}.rope.scaling.type")
    if scaling is not None and header.text(f"{ARCHITECTURE}.rope.scaling.type") != "none":
        raise UnsupportedModel(f"{header.shown} scales its rotary embedding.", hint=_HINT)


def _geometry(info: GgufInfo, header: Header) -> Geometry:
    n_ff = header.integer(f"{ARCHITECTURE}.feed_forward_length") or 0
    rotary = header.integer(f"{ARCHITECTURE}.rope.dimension_count") or info.head_dim_k
    is_usual = (
        info.head_dim_k == info.head_dim_v == rotary
        and info.head_dim_k % 2 == 0 < info.head_dim_k
        and 0 < info.n_head_kv <= info.n_head
        and info.n_head % info.n_head_kv == 0
        and n_ff > 0
    )
    if not is_usual:
        raise UnsupportedModel(
            f"{header.shown} has {info.n_head} heads of {info.head_dim_k} and {info.head_dim_v} numbers, "
            f"{rotary} of them rotated, {info.n_head_kv} key-value heads and {n_ff} FFN channels.",
            hint=_HINT,
        )
    return Geometry(
        n_embd=info.n_embd,
        n_head=info.n_head,
        n_head_kv=info.n_head_kv,
        head_dim=info.head_dim_k,
        n_ff=n_ff,
    )


def _require_shapes(
    header: Header, tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]
) -> None:
    missing = expected.keys() - tensors.keys() - {"output.weight"}
    if missing:
        raise UnsupportedModel(f"{header.shown} lacks {len(missing)} tensors: {_some(missing)}.", hint=_HINT)
    unknown = tensors.keys() - expected.keys()
    if unknown:
        raise UnsupportedModel(
            f"{header.shown} holds {len(unknown)} tensors unknown to a plain dense model: {_some(unknown)}.",
            hint=_HINT,
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name]:
            raise InvalidModel(
                f"{header.shown}: {name} has the shape {tensor.shape} instead of {expected[name]}."
            )


def _some(names: set[str]) -> str:
    return ", ".join(clean_line(name) for name in sorted(names)[:3])


def _number(header: Header, key: str, *, default: float | None) -> float:
    value = header.values.get(f"{ARCHITECTURE}.{key}", default)
    if not isinstance(value, float):
        raise InvalidModel(f"{header.shown} does not say {ARCHITECTURE}.{key}.")
    return value

"""Write seeded LoRA adapters for a tiny model, and the same model with adapters merged into its weights.

The format is that of llama.cpp's convert_lora_to_gguf.py: for a weight W of shape [n_out, n_in] there are
`<name>.lora_a` [rank, n_in] and `<name>.lora_b` [n_out, rank], and W acts as W + scale·alpha/rank·B·A. A
stack of experts has one pair each, along the first axis.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
from gguf import GGUFReader, GGUFWriter

from edgeapp.gguf_info.parts import read_header
from tests.tiny_moe import close

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from edgeapp.gguf_info.header import Tensor

ATTENTION = ("blk.0.attn_q.weight", "blk.1.attn_v.weight", "blk.1.attn_output.weight")
EXPERTS = ("blk.0.ffn_down_exps.weight", "blk.1.ffn_gate_exps.weight", "blk.1.ffn_up_exps.weight")
RANK = 4
ALPHA = 8.0


def write_tiny_lora(
    path: Path,
    base: Path,
    *,
    seed: int = 0,
    names: Sequence[str] = ATTENTION + EXPERTS,
    rank: int = RANK,
    alpha: float = ALPHA,
    arch: str = "llama",
) -> Path:
    """Write an adapter (F32) for the tensors `names` of the model `base` and return its path."""
    random = np.random.default_rng(seed)
    writer = adapter_writer(path, arch=arch, alpha=alpha)
    for tensor in read_header(base).tensors:
        if tensor.name in names:
            a, b = _shapes(tensor, rank)
            add_pair(writer, tensor.name, _noise(random, a), _noise(random, b))
    return close(writer, path)


def adapter_writer(
    path: Path,
    *,
    kind: str = "adapter",
    arch: str = "llama",
    adapter_type: str = "lora",
    alpha: float | None = ALPHA,
) -> GGUFWriter:
    """Return a writer that has the metadata of an adapter and no tensor yet."""
    writer = GGUFWriter(path, arch)
    writer.add_type(kind)
    writer.add_string("adapter.type", adapter_type)
    if alpha is not None:
        writer.add_float32("adapter.lora.alpha", alpha)
    return writer


def add_pair(writer: GGUFWriter, name: str, a: NDArray[np.float32], b: NDArray[np.float32]) -> None:
    writer.add_tensor(f"{name}.lora_a", a)
    writer.add_tensor(f"{name}.lora_b", b)


def write_merged(path: Path, base: Path, adapters: Sequence[tuple[Path, float]]) -> Path:
    """Copy the F32 model `base` with each (adapter, scale) added to its weights by numpy."""
    shutil.copyfile(base, path)
    header = read_header(base)
    for tensor in header.tensors:
        weight = np.memmap(
            path,
            dtype=np.float32,
            mode="r+",
            offset=header.data_offset_bytes + tensor.offset_bytes,
            shape=tensor.shape[::-1],
        )
        for adapter, scale in adapters:
            weight += scale * _delta(adapter, tensor)
        weight.flush()
    return path


def _delta(adapter: Path, tensor: Tensor) -> NDArray[np.float32]:
    reader = GGUFReader(adapter)
    alpha = float(reader.fields["adapter.lora.alpha"].contents())
    found: dict[str, NDArray[np.float32]] = {entry.name: np.array(entry.data) for entry in reader.tensors}
    a, b = found.get(f"{tensor.name}.lora_a"), found.get(f"{tensor.name}.lora_b")
    if a is None or b is None:
        return np.zeros(tensor.shape[::-1], dtype=np.float32)
    return np.asarray(alpha / b.shape[-1] * (b @ a), dtype=np.float32)


def _shapes(tensor: Tensor, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    n_in, n_out, *experts = tensor.shape
    return (*experts, rank, n_in), (*experts, n_out, rank)


def _noise(random: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.asarray(random.standard_normal(shape) * shape[-1] ** -0.5, dtype=np.float32)

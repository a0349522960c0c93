"""Models of true shape with random weights: speed does not depend on the values, as long as they are sane.

Every weight is about 1/√(row length) in size, so that activations stay finite and tokens spread over the
experts. Blocks come from a small pool that is repeated from changing places, so writing goes at the disk's
speed. Needs the standard library only.
"""

from __future__ import annotations

import math
import random
import struct
from dataclasses import replace
from typing import TYPE_CHECKING

from edgeapp.gguf_info.ggml_types import GGML_TYPES
from tests.gguf_bytes import I32, STRING, array, number, text
from tests.model_shapes import SHAPES, Shape, header, padded, tensor_specs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.gguf_bytes import TensorSpec, Value

_POOL_BLOCKS = 8192
TINY = Shape(
    arch="qwen3moe",
    n_parameters=20e6,
    n_layer=4,
    n_ctx=32768,
    n_vocab=1024,
    n_embd=256,
    n_head=4,
    n_head_kv=2,
    head_dim=64,
    n_expert=16,
    n_expert_used=4,
    n_ff_exp=256,
    n_ff=512,
    qk_norm="head",
)
"""For trying the benchmark itself where there is no GPU."""


def shape_of(name: str, *, n_layer: int = 0) -> Shape:
    """Return a published shape, or the tiny one; `n_layer` above 0 keeps only so many layers."""
    shape = TINY if name == "tiny" else SHAPES[name]
    return replace(shape, n_layer=n_layer, n_nextn=0) if n_layer else shape


def size_bytes(shape: Shape) -> int:
    return sum(padded(spec.n_bytes) for spec in tensor_specs(shape))


def write_random(name: str, shape: Shape, path: Path) -> Path:
    """Write the model unless it is there; the same bytes every time."""
    if path.exists():
        return path
    part = path.with_suffix(".part")
    specs = tensor_specs(shape)
    pools = _Pools()
    with part.open("wb") as file:
        file.write(header(shape, specs, name=name, tokenizer=byte_tokenizer(shape.n_vocab)))
        for spec in specs:
            pools.write(file.write, spec)
            file.write(bytes(padded(spec.n_bytes) - spec.n_bytes))
    part.replace(path)
    return path


def byte_tokenizer(n_vocab: int) -> list[tuple[str, Value]]:
    """One token for each byte and no merges, so a text of n letters is n tokens; the rest are never read."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = iter(range(0x100, 0x200))
    letters = [chr(byte) if byte in printable else chr(next(shifted)) for byte in range(0x100)]
    tokens = ["<s>", *letters, *(f"<{n}>" for n in range(n_vocab - len(letters) - 1))]
    return [
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("default")),
        ("tokenizer.ggml.tokens", array(STRING, tokens)),
        ("tokenizer.ggml.token_type", array(I32, [3, *[1] * (n_vocab - 1)])),
        ("tokenizer.ggml.merges", array(STRING, [])),
        ("tokenizer.ggml.bos_token_id", number(0)),
        ("tokenizer.ggml.eos_token_id", number(0)),
    ]


class _Pools:
    """Random blocks by type and row length."""

    def __init__(self) -> None:
        self._random = random.Random(0)  # noqa: S311 - weights, not secrets
        self._by_kind: dict[tuple[str, int], bytes] = {}

    def write(self, write: Callable[[memoryview], object], spec: TensorSpec) -> None:
        ggml_type = GGML_TYPES[spec.type_id]
        if ggml_type.name == "F32":
            write(memoryview(self._floats(spec)))
            return
        kind = (ggml_type.name, spec.shape[0])
        if kind not in self._by_kind:
            self._by_kind[kind] = self._blocks(*kind, ggml_type.block_bytes)
        pool = memoryview(self._by_kind[kind])
        start = self._random.randrange(_POOL_BLOCKS) * ggml_type.block_bytes
        left = spec.n_bytes
        while left:
            piece = pool[start : start + left]
            write(piece)
            left -= len(piece)
            start = 0

    def _floats(self, spec: TensorSpec) -> bytes:
        """Norms are 1; decays of recurrent layers are -1; other rows are small and random."""
        n = spec.n_bytes // 4
        if "norm" in spec.name or spec.name.endswith(("ssm_a", "ssm_d")):
            return struct.pack("<f", -1.0 if spec.name.endswith("ssm_a") else 1.0) * n
        reach = math.sqrt(3 / spec.shape[0])
        some = struct.pack(
            f"<{min(n, 4096)}f", *(self._random.uniform(-reach, reach) for _ in range(min(n, 4096)))
        )
        return (some * (n // 4096 + 1))[: spec.n_bytes]

    def _blocks(self, type_name: str, n_row: int, block_bytes: int) -> bytes:
        pool = bytearray(self._random.randbytes(_POOL_BLOCKS * block_bytes))
        for offset, field in _scales(type_name, n_row):
            for place, byte in enumerate(field, offset):
                pool[place::block_bytes] = bytes([byte]) * _POOL_BLOCKS
        return bytes(pool)


def _scales(type_name: str, n_row: int) -> list[tuple[int, bytes]]:
    """Where a block keeps its scale (ggml/src/ggml-common.h), and what it must be for weights of 1/√n_row.

    The numbers are the standard deviations of what the scale multiplies, for random bits.
    """
    size = 1 / math.sqrt(n_row)
    match type_name:
        case "Q8_0":
            return [(0, struct.pack("<e", size / 74))]
        case "Q5_0":
            return [(0, struct.pack("<e", size / 9.2))]
        case "Q4_K":  # d · scale · q - dmin · min, with scale, min to 63 and q to 15
            return [(0, struct.pack("<ee", size / 220, size / 220 * 7.5))]
        case "Q6_K":  # d · scale · (q - 32), at the end of the block
            return [(208, struct.pack("<e", size / 1370))]
        case "MXFP4":  # 2^(e - 128) · values to 12
            return [(0, bytes([128 + round(math.log2(size / 5.5))]))]
    raise ValueError(f"no random blocks of {type_name} are known")

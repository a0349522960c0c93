"""What a GGUF file will hold, said as row ranges of source tensors. Pure: reads no file, runs no kernel.

A GGUF tensor is seen as a matrix of rows: its last dimension is the row, all others are counted through.
Each `Part` says which rows of which source tensor become which of its rows. Stacking experts, splitting a
fused gate-up tensor, permuting for another rotary layout, transposing and dropping experts are then index
arithmetic, and nothing is ever concatenated in memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from gguf import GGMLQuantizationType

    from edgeapp_converters.metadata import Metadata


class ElementMap(Enum):
    """A function applied to every element after widening to F32."""

    NONE = "none"
    ADD_ONE = "add_one"
    """x + 1: families that store RMSNorm gains around zero (Gemma, Qwen3-Next)."""
    NEG_EXP = "neg_exp"
    """−exp(x): state-space decay stored as A_log."""


class Encoding(Enum):
    """How the source's elements are stored."""

    PLAIN = "plain"
    """One number after the other, in the source tensor's dtype."""
    FP8_BLOCK = "fp8_block"
    """FP8, to be multiplied by one number of `Part.scale` for each block of `Part.scale_block`."""
    MXFP4 = "mxfp4"
    """`source` holds 16-byte blocks of 32 FP4 values, `scale` their E8M0 exponents (GPT-OSS)."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Part:
    """Rows of one source tensor that become `n_rows` rows of a GGUF tensor, from `target_row` on.

    The source tensor is seen as a matrix whose rows have the target's length (`columns`), unless
    `transposed`. Row i of this part is source row `first_row + i * row_step`, or `first_row +
    row_order[i]` when that is given.

    With `transposed`, the source is a matrix with rows of `source_columns`, and row i of this part is its
    column `first_row + i`, elements taken from source rows `first_column` … `first_column + columns - 1`.
    """

    source: str
    target_row: int
    n_rows: int
    first_row: int = 0
    row_step: int = 1
    row_order: npt.NDArray[np.int64] | None = None
    column_order: npt.NDArray[np.int64] | None = None
    """Element j of a row is taken from element `column_order[j]` of the source row."""
    transposed: bool = False
    source_columns: int = 0
    first_column: int = 0
    expert: int = 0
    """Which expert the rows belong to: picks the row of the importance matrix."""
    encoding: Encoding = Encoding.PLAIN
    scale: str | None = None
    """Source tensor with the scales that `encoding` needs."""
    scale_block: tuple[int, int] = (0, 0)
    """Rows and columns of the source that share one FP8 scale."""
    element_map: ElementMap = ElementMap.NONE


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TensorPlan:
    """One tensor of the GGUF file."""

    name: str
    """llama.cpp's name, such as `blk.3.ffn_gate_exps.weight`."""
    shape: tuple[int, ...]
    """Outermost first: experts come before rows, the row length last. GGUF stores it reversed."""
    parts: tuple[Part, ...] = ()
    values: npt.NDArray[np.float32] | None = None
    """Numbers that were computed instead of read (rope factors); then there are no parts."""
    fixed_type: GGMLQuantizationType | None = None
    """The type it must have whatever the recipe says (F32 for a router, MXFP4 for moved blocks)."""

    @property
    def columns(self) -> int:
        return self.shape[-1] if self.shape else 1

    @property
    def n_rows(self) -> int:
        return self.n_elements // self.columns

    @property
    def n_elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelPlan:
    """All tensors and the metadata of the GGUF file, before types are chosen."""

    architecture: str
    """llama.cpp's name: `qwen3moe`, `llama`, …"""
    metadata: Metadata
    """The family's own keys (`<architecture>.*`); general and tokenizer keys are added by others."""
    tensors: tuple[TensorPlan, ...]
    """In file order."""
    n_layer: int
    n_expert: int = 0
    n_expert_used: int = 0
    ignored: tuple[str, ...] = ()
    """Source tensors left out on purpose (rotary frequencies, multi-token-prediction layers)."""
    notes: tuple[str, ...] = field(default=())
    """Sentences the user should read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TypedTensor:
    """A tensor with the GGML type it gets. `wanted` differs where a row length forced a fallback."""

    plan: TensorPlan
    type: GGMLQuantizationType
    wanted: GGMLQuantizationType

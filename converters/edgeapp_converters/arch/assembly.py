"""Collects the tensors of a GGUF file from those of a checkpoint, and sees that none is forgotten.

A family names what becomes what; this module does the index arithmetic, finds the scales of FP8 weights,
says which tensors stay F32 as llama.cpp does, and refuses what is missing, misshapen or left over. Knows no
family, no metadata and reads no file.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypedDict

from gguf import GGMLQuantizationType

from edgeapp.cleantext import clean_line
from edgeapp.errors import InvalidCheckpoint, UnsupportedCheckpoint
from edgeapp_converters.plan import ElementMap, Encoding, Part, TensorPlan

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Unpack

    import numpy as np
    import numpy.typing as npt

    from edgeapp_converters.source import SourceTensor

_UNUSED = (".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias", ".activation_scale")
"""Ends of names that hold no weights: buffers that old versions of transformers saved, run-time scales."""

_PACKED = (".qweight", ".weight_packed")
"""Ends of names that stand for `.weight` where integers are packed."""

_OTHER_WAYS = "Convert the original checkpoint, or try --bridge, which runs llama.cpp's own converter."

_F32 = (
    "_norm.weight",
    ".ffn_gate_inp.weight",
    ".ffn_gate_inp_shexp.weight",
    ".shortconv.conv.weight",
    ".ssm_conv1d.weight",
)
"""Ends of names that stay F32 whatever the recipe (llama.cpp, conversion/base.py, prepare_tensors)."""

Shape = tuple[int, ...]


class Order(TypedDict, total=False):
    """How rows are read that stay where they are; fields of `Part`."""

    row_order: npt.NDArray[np.int64]
    column_order: npt.NDArray[np.int64]
    element_map: ElementMap


class Place(Order, total=False):
    """Where rows come from; fields of `Part`."""

    first_row: int
    row_step: int
    transposed: bool
    source_columns: int
    first_column: int
    expert: int


class Assembly:
    """The plans so far, and the source tensors they use.

    Every method raises `InvalidCheckpoint` when a tensor is missing or has another shape than it must have.
    """

    def __init__(
        self, tensors: Mapping[str, SourceTensor], *, fp8_block: tuple[int, int] = (128, 128)
    ) -> None:
        self.plans: list[TensorPlan] = []
        self.ignored: list[str] = []
        self._tensors = tensors
        self._fp8_block = fp8_block
        self._used: set[str] = set()

    def __contains__(self, source: str) -> bool:
        return source in self._tensors

    def copy(self, target: str, source: str, shape: Shape | None = None, **order: Unpack[Order]) -> None:
        """`source` as it is, or seen in another `shape`."""
        shape = self.shape(source) if shape is None else shape
        self.require_elements(source, math.prod(shape))
        rows = math.prod(shape[:-1])
        self.add(target, shape, [self.part(source, target_row=0, n_rows=rows, **order)])

    def copy_present(self, target: str, source: str) -> bool:
        """`copy` if the checkpoint has `source`; tell whether it has."""
        if source in self:
            self.copy(target, source)
        return source in self

    def rows(self, target: str, source: str, first_row: int, n_rows: int) -> None:
        """Some rows of a matrix."""
        rows, columns = self.require_matrix(source)
        if first_row + n_rows > rows:
            raise InvalidCheckpoint(
                f"{_shown(source)} has {rows} rows, but rows {first_row} to {first_row + n_rows} are needed."
            )
        part = self.part(source, target_row=0, first_row=first_row, n_rows=n_rows)
        self.add(target, (n_rows, columns), [part])

    def stack(self, target: str, sources: Sequence[str]) -> None:
        """One matrix per expert, all of one shape: [n_expert, rows, columns]."""
        if not sources:
            raise InvalidCheckpoint(f"config.json gives no experts for {target}.")
        rows, columns = self.require_matrix(sources[0])
        parts = []
        for expert, source in enumerate(sources):
            self.require_shape(source, (rows, columns))
            parts.append(self.part(source, target_row=expert * rows, n_rows=rows, expert=expert))
        self.add(target, (len(sources), rows, columns), parts)

    def unstack(self, target: str, source: str, first_row: int, n_rows: int) -> None:
        """The same rows of every expert of a stack [n_expert, rows, columns]."""
        n_expert, rows, columns = self.require_dimensions(source, 3)
        if first_row + n_rows > rows:
            raise InvalidCheckpoint(
                f"{_shown(source)} has {rows} rows for each expert, {first_row + n_rows} are needed."
            )
        parts = [
            self.part(source, target_row=e * n_rows, first_row=e * rows + first_row, n_rows=n_rows, expert=e)
            for e in range(n_expert)
        ]
        self.add(target, (n_expert, n_rows, columns), parts)

    def values(self, target: str, values: npt.NDArray[np.float32]) -> None:
        """Numbers that were computed."""
        plan = TensorPlan(name=target, shape=values.shape, values=values, fixed_type=GGMLQuantizationType.F32)
        self.plans.append(plan)

    def add(
        self,
        target: str,
        shape: Shape,
        parts: Sequence[Part],
        fixed_type: GGMLQuantizationType | None = None,
    ) -> None:
        """A tensor of parts that were made by `part` or `blocks`."""
        shape = _as_rewritten(shape)
        if stays_f32(target, shape):
            fixed_type = GGMLQuantizationType.F32
        self.plans.append(TensorPlan(name=target, shape=shape, parts=tuple(parts), fixed_type=fixed_type))

    def part(self, source: str, *, target_row: int, n_rows: int, **place: Unpack[Place]) -> Part:
        """Rows of a weight; those of an FP8 weight know their scales."""
        tensor = self._take(source)
        if not tensor.dtype.startswith("F8_"):
            return Part(source=source, target_row=target_row, n_rows=n_rows, **place)
        scale = self._fp8_scale(source)
        return Part(
            source=source,
            target_row=target_row,
            n_rows=n_rows,
            encoding=Encoding.FP8_BLOCK,
            scale=scale,
            scale_block=self._fp8_block,
            **place,
        )

    def blocks(
        self, source: str, scale: str, *, target_row: int, n_rows: int, **place: Unpack[Place]
    ) -> Part:
        """Rows of MXFP4 blocks with the exponents in `scale`."""
        self._take(source)
        self._take(scale)
        return Part(
            source=source,
            target_row=target_row,
            n_rows=n_rows,
            encoding=Encoding.MXFP4,
            scale=scale,
            **place,
        )

    def ignore(self, sources: Iterable[str]) -> None:
        """Leave these out on purpose."""
        for source in sources:
            self._take(source)
            self.ignored.append(source)

    def starting_with(self, prefix: str) -> list[str]:
        return [name for name in self._tensors if name.startswith(prefix)]

    def shape(self, source: str) -> Shape:
        return self._find(source).shape

    def require_shape(self, source: str, shape: Shape) -> None:
        if self.shape(source) != shape:
            raise InvalidCheckpoint(
                f"{_shown(source)} has shape {list(self.shape(source))}, but {list(shape)} is needed.",
                hint="The configuration and the tensors do not belong together; check config.json.",
            )

    def require_dimensions(self, source: str, n_dimensions: int) -> Shape:
        shape = self.shape(source)
        if len(shape) != n_dimensions:
            raise InvalidCheckpoint(
                f"{_shown(source)} has {len(shape)} dimensions, but {n_dimensions} are needed."
            )
        return shape

    def require_matrix(self, source: str) -> tuple[int, int]:
        rows, columns = self.require_dimensions(source, 2)
        return rows, columns

    def require_elements(self, source: str, n_elements: int) -> None:
        if math.prod(self.shape(source)) != n_elements:
            raise InvalidCheckpoint(
                f"{_shown(source)} has shape {list(self.shape(source))}, but needs {n_elements} elements."
            )

    def finish(self) -> tuple[TensorPlan, ...]:
        """All plans. Raise `UnsupportedCheckpoint` for tensors of which no use was made."""
        left = [name for name in self._tensors if name not in self._used]
        self.ignore([name for name in left if name.endswith(_UNUSED)])
        unknown = [name for name in left if name not in self._used]
        if unknown:
            raise UnsupportedCheckpoint(
                f"{len(unknown)} tensors have no place in a GGUF of this architecture: {_few(unknown)}.",
                hint="Nothing is dropped silently. Try --bridge, which runs llama.cpp's own converter.",
            )
        return tuple(self.plans)

    def _take(self, source: str) -> SourceTensor:
        tensor = self._find(source)
        self._used.add(source)
        return tensor

    def _find(self, source: str) -> SourceTensor:
        tensor = self._tensors.get(source)
        if tensor is not None:
            return tensor
        stem = source.removesuffix(".weight")
        if any(f"{stem}{end}" in self._tensors for end in _PACKED):
            raise UnsupportedCheckpoint(
                f"{_shown(source)} is quantised to integers (GPTQ, AWQ or compressed-tensors).",
                hint=_OTHER_WAYS,
            )
        raise InvalidCheckpoint(
            f"Tensor {_shown(source)} is missing.",
            hint="The checkpoint is incomplete: look for a shard that was not downloaded.",
        )

    def _fp8_scale(self, source: str) -> str:
        """The name of the scales of an FP8 weight, which count as used from now on."""
        if f"{source}_scale" in self._tensors:
            raise UnsupportedCheckpoint(
                f"{_shown(source)} is FP8 with scales of compressed-tensors; only scales by block are known.",
                hint=_OTHER_WAYS,
            )
        self._take(f"{source}_scale_inv")
        return f"{source}_scale_inv"


def stays_f32(target: str, shape: Shape) -> bool:
    """Whether llama.cpp's converter keeps it F32: vectors, norms, routers, convolutions, all but weights."""
    return len(shape) <= 1 or not target.endswith(".weight") or target.endswith(_F32)


def _as_rewritten(shape: Shape) -> Shape:
    """Without outer dimensions of one: llama-quantize writes what ggml_n_dims counts."""
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return shape


def _shown(name: str) -> str:
    return clean_line(name, max_chars=120)


def _few(names: list[str]) -> str:
    return ", ".join(_shown(name) for name in names[:3]) + (", …" if len(names) > 3 else "")  # noqa: PLR2004 - as sliced

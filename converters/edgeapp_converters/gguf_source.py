"""An existing GGUF as the source of a conversion: F32, F16, BF16 or Q8_0, split or not.

The header is read by the hardened reader of `edgeapp.gguf_info`; the plan copies every tensor and key.
"""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gguf import GGMLQuantizationType, GGUFValueType

from edgeapp.cleantext import clean_line
from edgeapp.errors import InvalidCheckpoint, ModelUnreadable, UnsupportedCheckpoint
from edgeapp.gguf_info.header import SCALARS, STRING_TYPE, Span
from edgeapp.gguf_info.hyperparameters import read_hyperparameters
from edgeapp.gguf_info.kind import require_model
from edgeapp.gguf_info.parts import read_parts
from edgeapp_converters.llama_quantize import allows_quantisation
from edgeapp_converters.metadata import Metadata, MetaValue, Scalar
from edgeapp_converters.plan import ModelPlan, Part, TensorPlan
from edgeapp_converters.shards import LocalSource, stamp_of
from edgeapp_converters.small_files import shown_path
from edgeapp_converters.source import SourceTensor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edgeapp.gguf_info.header import Header, Tensor
    from edgeapp_converters.shards import Stamp

_READABLE = {"F32", "F16", "BF16", "Q8_0"}
_NOT_WEIGHTS = {"I8", "I16", "I32", "I64", "F64"}
_DROPPED = (
    *("split.", "general.file_type", "general.quantization_version", "general.alignment"),
    *("edgeapp.", "quantize.imatrix."),
)
"""Keys about the file as it was, not about the model. Our writer aligns tensors to the default."""
_LENGTH = struct.Struct("<Q")
_SPLIT = re.compile(r"-\d{5}-of-\d{5}$")


@dataclass(frozen=True, kw_only=True)
class OpenedGguf:
    """A GGUF that can be converted."""

    name: str
    source: LocalSource
    plan: ModelPlan
    licence: str


def open_gguf(path: Path) -> OpenedGguf:
    """Open the GGUF at `path`, any part of a split one. The file that the user names may be a link.

    Raise `UnsupportedCheckpoint` when its weights have fewer than eight bits already, and the errors of
    `edgeapp.gguf_info` for files that are no model or damaged.
    """
    parts = read_parts(path)
    plan = plan_gguf(parts)
    paths = {part.path.name: part.path for part in parts}

    def opener(shard: str) -> int:
        return _opened(paths[shard])

    source = LocalSource(
        opener,
        stamps={shard: _stamp(path) for shard, path in paths.items()},
        tensors={tensor.name: tensor for part in parts for tensor in _source_tensors(part)},
        other_sha256s={},
    )
    return OpenedGguf(
        name=_SPLIT.sub("", path.stem),
        source=source,
        plan=plan,
        licence=parts[0].text("general.license") or "",
    )


def plan_gguf(parts: tuple[Header, ...]) -> ModelPlan:
    """Return the plan that copies every tensor and every key of the model whose files have these headers.

    Raise `UnsupportedCheckpoint` for weights of fewer than eight bits and for what is no number format of
    weights, `InvalidModel` or `UnsupportedModel` for what is no model.
    """
    header = parts[0]
    architecture = require_model(header)
    hyper = read_hyperparameters(header, architecture)
    tensors = [tensor for part in parts for tensor in part.tensors]
    _require_many_bits(header, tensors)
    return ModelPlan(
        architecture=architecture,
        metadata=_metadata(header),
        tensors=tuple(map(_copy, tensors)),
        n_layer=hyper.n_layer,
        n_expert=hyper.n_expert,
        n_expert_used=max(hyper.n_expert_used_by_layer),
    )


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as problem:
        raise ModelUnreadable(f"{shown_path(path)} cannot be read: {problem.strerror}.") from problem


def _stamp(path: Path) -> Stamp:
    fd = _opened(path)
    try:
        return stamp_of(fd)
    finally:
        os.close(fd)


def _require_many_bits(header: Header, tensors: list[Tensor]) -> None:
    if not tensors:
        raise InvalidCheckpoint(f"{header.shown} holds no weights.", hint="Give the model itself.")
    low = next((tensor for tensor in tensors if tensor.type.name not in _READABLE), None)
    if low is None:
        return
    name = clean_line(low.name, max_chars=80)
    if low.type.name in _NOT_WEIGHTS:
        raise UnsupportedCheckpoint(
            f"{header.shown} stores {name} as {low.type.name}, which cannot be converted."
        )
    raise UnsupportedCheckpoint(
        f"{header.shown} is already {low.type.name} ({name}); re-quantising would lose twice.",
        hint="Convert the original checkpoint, or a GGUF of F32, F16, BF16 or Q8_0.",
    )


def _source_tensors(part: Header) -> Iterator[SourceTensor]:
    for tensor in part.tensors:
        yield SourceTensor(
            name=tensor.name,
            dtype=tensor.type.name,
            shape=_outermost_first(tensor),
            shard=part.path.name,
            offset_bytes=part.data_offset_bytes + tensor.offset_bytes,
            n_bytes=tensor.n_bytes,
        )


def _copy(tensor: Tensor) -> TensorPlan:
    shape = _outermost_first(tensor)
    n_rows = tensor.n_parameters // shape[-1]
    plan = TensorPlan(name=tensor.name, shape=shape, parts=_parts(tensor, shape, n_rows))
    if allows_quantisation(plan):
        return plan
    return TensorPlan(
        name=plan.name,
        shape=shape,
        parts=plan.parts,
        fixed_type=GGMLQuantizationType[tensor.type.name],
    )


def _parts(tensor: Tensor, shape: tuple[int, ...], n_rows: int) -> tuple[Part, ...]:
    """One part for each expert of a stack, so that each gets its own importance."""
    n_experts = shape[0] if len(shape) == 3 and tensor.is_routed_expert else 1  # noqa: PLR2004 - a stack
    share = n_rows // n_experts
    return tuple(
        Part(source=tensor.name, target_row=e * share, n_rows=share, first_row=e * share, expert=e)
        for e in range(n_experts)
    )


def _outermost_first(tensor: Tensor) -> tuple[int, ...]:
    return tuple(reversed(tensor.shape)) or (1,)


def _metadata(header: Header) -> Metadata:
    return {
        key: _value(header, key, value)
        for key, value in header.values.items()
        if not key.startswith(_DROPPED)
    }


def _value(header: Header, key: str, value: float | Span) -> MetaValue:
    kind = GGUFValueType(header.type_ids[key])
    if not isinstance(value, Span):
        return MetaValue(kind, value)
    if not value.is_array:
        return MetaValue(kind, _text(bytes(header.raw[value.start : value.start + value.count]), key))
    return MetaValue(kind, tuple(_elements(header, key, value)), GGUFValueType(value.type_id))


def _elements(header: Header, key: str, span: Span) -> Iterator[Scalar]:
    if span.type_id != STRING_TYPE:
        layout = SCALARS[span.type_id].format[1:]
        yield from struct.unpack_from(f"<{span.count}{layout}", header.raw, span.start)
        return
    position = span.start
    for _ in range(span.count):
        (n_bytes,) = _LENGTH.unpack_from(header.raw, position)
        position += _LENGTH.size
        yield _text(bytes(header.raw[position : position + n_bytes]), key)
        position += n_bytes


def _text(data: bytes, key: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise InvalidCheckpoint(f"The text of {clean_line(key)} is not UTF-8.") from problem

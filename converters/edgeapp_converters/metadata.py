"""Typed GGUF key-value pairs, as a family's plan states them. Knows neither file nor model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from gguf import GGUFValueType

if TYPE_CHECKING:
    from collections.abc import Sequence

Scalar: TypeAlias = int | float | bool | str


@dataclass(frozen=True, slots=True)
class MetaValue:
    """A value with its GGUF type; `item` is the element type of an array."""

    kind: GGUFValueType
    value: Scalar | tuple[Scalar, ...]
    item: GGUFValueType | None = None


Metadata: TypeAlias = dict[str, MetaValue]
"""In the order in which the keys are written."""


def u32(value: int) -> MetaValue:
    return MetaValue(GGUFValueType.UINT32, int(value))


def i32(value: int) -> MetaValue:
    return MetaValue(GGUFValueType.INT32, int(value))


def u64(value: int) -> MetaValue:
    return MetaValue(GGUFValueType.UINT64, int(value))


def f32(value: float) -> MetaValue:
    return MetaValue(GGUFValueType.FLOAT32, float(value))


def boolean(value: bool) -> MetaValue:  # noqa: FBT001 - a value, not a switch
    return MetaValue(GGUFValueType.BOOL, bool(value))


def string(value: str) -> MetaValue:
    return MetaValue(GGUFValueType.STRING, value)


def array(item: GGUFValueType, values: Sequence[Scalar]) -> MetaValue:
    return MetaValue(GGUFValueType.ARRAY, tuple(values), item)


def strings(values: Sequence[str]) -> MetaValue:
    return array(GGUFValueType.STRING, values)


def i32s(values: Sequence[int]) -> MetaValue:
    return array(GGUFValueType.INT32, values)


def f32s(values: Sequence[float]) -> MetaValue:
    return array(GGUFValueType.FLOAT32, values)


def booleans(values: Sequence[bool]) -> MetaValue:
    return array(GGUFValueType.BOOL, values)

"""A parsed GGUF header: tensors, and keys with typed access. Reads no file and knows no model.

Scalars are values; strings and arrays stay where they are in the header until somebody asks for them, because
a tokenizer has hundreds of thousands of them.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeapp.cleantext import clean_line
from edgeapp.errors import InvalidModel
from edgeapp.gguf_info.reader import DAMAGED

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgeapp.gguf_info.ggml_types import GgmlType

STRING_TYPE, ARRAY_TYPE = 8, 9
SCALARS = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
"""`enum gguf_type` → layout; 8 is a string and 9 an array."""
_INTEGER_TYPES = frozenset({0, 1, 2, 3, 4, 5, 10, 11})
UINT32_TYPE, INT32_TYPE, FLOAT32_TYPE = 4, 5, 6

_EXPERT_TENSOR = re.compile(r"_(?:ch)?exps\.|\.ffn_(?:gate|up|down)\.\d+\.")
_ONE_NORM_FOR_ALL_EXPERTS = "ffn_norm_exps"  # arctic


@dataclass(frozen=True, kw_only=True)
class Span:
    """A string or array that was skipped: where its payload lies in the header.

    For a string `count` is its length in bytes. For an array it is the number of elements of `type_id`.
    """

    type_id: int
    start: int
    count: int
    is_array: bool


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One tensor's description. `shape` is in ggml's order: the row length first."""

    name: str
    shape: tuple[int, ...]
    type: GgmlType
    offset_bytes: int

    @property
    def n_parameters(self) -> int:
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        return self.n_parameters // self.type.block_parameters * self.type.block_bytes

    @property
    def is_routed_expert(self) -> bool:
        """Whether only `n_expert_used` of its `n_expert` slices work on a token; shared experts always do."""
        return bool(_EXPERT_TENSOR.search(self.name)) and _ONE_NORM_FOR_ALL_EXPERTS not in self.name


@dataclass(frozen=True, kw_only=True)
class Header:
    """The parsed header of one file, with typed access to its keys."""

    path: Path
    shown: str
    file_bytes: int
    gguf_version: int
    alignment_bytes: int
    data_offset_bytes: int
    """Where the tensors begin; their own offsets count from there."""
    values: Mapping[str, int | float | bool | Span]
    type_ids: Mapping[str, int]
    """`enum gguf_type` of each value, for whoever copies them."""
    tensors: tuple[Tensor, ...]
    raw: bytearray

    def text(self, key: str) -> str | None:
        """Return a string value, one clean line; None when absent. Raise `InvalidModel` for another type."""
        raw = self.text_bytes(key)
        return None if raw is None else clean_line(raw.decode("utf-8", "replace"))

    def text_bytes(self, key: str) -> bytes | None:
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, Span) or value.is_array:
            raise InvalidModel(f"{self.shown}: {clean_line(key)} is not a string.", hint=DAMAGED)
        return bytes(self.raw[value.start : value.start + value.count])

    def integer(self, key: str) -> int | None:
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, int):
            raise InvalidModel(f"{self.shown}: {clean_line(key)} is not an integer.", hint=DAMAGED)
        return int(value)

    def integers(self, key: str, *, max_count: int) -> tuple[int, ...] | None:
        """Return an integer, or an array of at most `max_count` of them, as a tuple; None when absent."""
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, int):
            return (int(value),)
        if not isinstance(value, Span) or not value.is_array or value.type_id not in _INTEGER_TYPES | {7}:
            raise InvalidModel(f"{self.shown}: {clean_line(key)} does not hold integers.", hint=DAMAGED)
        if value.count > max_count:
            raise InvalidModel(
                f"{self.shown}: {clean_line(key)} has {value.count} values; at most {max_count} make sense.",
                hint=DAMAGED,
            )
        code = SCALARS[value.type_id].format[1:]
        return tuple(map(int, struct.unpack_from(f"<{value.count}{code}", self.raw, value.start)))

    def array(self, key: str) -> Span | None:
        """Return where an array lies; None when absent. Raise `InvalidModel` for anything but an array."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, Span) or not value.is_array:
            raise InvalidModel(f"{self.shown}: {clean_line(key)} is not an array.", hint=DAMAGED)
        return value

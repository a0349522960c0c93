"""The number formats of checkpoints: how many bytes a row has, and which numbers its bytes stand for.

Safetensors' names (`BF16`, `F8_E4M3`) and GGUF's (`Q8_0`) are both known. Knows no tensor and no file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from gguf import GGMLQuantizationType

from edgeapp.cleantext import clean_line
from edgeapp.errors import UnsupportedCheckpoint
from edgeapp_converters import ggml

if TYPE_CHECKING:
    import numpy.typing as npt

_NOT_WEIGHTS = {"I8", "I16", "I32", "I64"}
_AT_ONCE = 1 << 16
"""FP8 numbers looked up in one go: numpy widens each index to eight bytes."""


def stored_row_bytes(dtype: str, columns: int) -> int:
    """Return the bytes of a row of `columns` numbers. Raise `UnsupportedCheckpoint` for other formats."""
    if dtype == "F64":
        return 8 * columns
    if dtype in _TABLES:
        return columns
    return ggml.row_bytes(_ggml_type(dtype), columns)


def is_blocked(dtype: str) -> bool:
    """Tell whether numbers are stored in blocks, so that a single one has no place of its own."""
    return dtype != "F64" and dtype not in _TABLES and ggml.block_size(_ggml_type(dtype)) > 1


def decode(dtype: str, data: npt.NDArray[np.uint8], into: npt.NDArray[np.float32]) -> None:
    """Write the numbers in the contiguous bytes `data` to `into`, exactly (F64 is rounded to F32)."""
    if dtype == "F64":
        with np.errstate(over="ignore"):  # becomes infinite, which the caller refuses
            into.reshape(-1)[:] = data.reshape(-1).view(np.float64)
    elif dtype in _TABLES:
        _look_up(_TABLES[dtype], data.reshape(-1), into.reshape(-1))
    else:
        ggml.widen(_ggml_type(dtype), data, into)


def _ggml_type(dtype: str) -> GGMLQuantizationType:
    kind = GGMLQuantizationType.__members__.get(dtype)
    if kind is None or dtype in _NOT_WEIGHTS:
        raise UnsupportedCheckpoint(f"Weights stored as {clean_line(dtype)} cannot be converted.")
    return GGMLQuantizationType(kind)


def _look_up(
    table: npt.NDArray[np.float32], codes: npt.NDArray[np.uint8], into: npt.NDArray[np.float32]
) -> None:
    for start in range(0, codes.size, _AT_ONCE):
        end = start + _AT_ONCE
        np.take(table, codes[start:end], out=into[start:end], mode="clip")


def _e4m3() -> npt.NDArray[np.float32]:
    """FP8 with 4 exponent and 3 mantissa bits, bias 7, no infinity: all exponent and mantissa bits is NaN.

    Source: Micikevicius et al., FP8 Formats for Deep Learning, table 1 (arXiv 2209.05433).
    """
    values = _small_floats(exponent_bits=4, mantissa_bits=3)
    values[[0x7F, 0xFF]] = np.nan
    return values


def _e5m2() -> npt.NDArray[np.float32]:
    """FP8 with 5 exponent and 2 mantissa bits, bias 15, infinities and NaNs as in IEEE 754 (same source)."""
    values = _small_floats(exponent_bits=5, mantissa_bits=2)
    values[[0x7C, 0xFC]] = np.inf, -np.inf
    values[[0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF]] = np.nan
    return values


def _small_floats(*, exponent_bits: int, mantissa_bits: int) -> npt.NDArray[np.float32]:
    """All 256 numbers of one sign bit, these exponent and mantissa bits, as if none were NaN or infinite."""
    codes = np.arange(256)
    exponent = codes >> mantissa_bits & (1 << exponent_bits) - 1
    mantissa = (codes & (1 << mantissa_bits) - 1) / (1 << mantissa_bits)
    bias = (1 << exponent_bits - 1) - 1
    magnitude = np.where(exponent > 0, 1 + mantissa, mantissa) * 2.0 ** (np.maximum(exponent, 1) - bias)
    values: npt.NDArray[np.float32] = np.where(codes & 0x80, -magnitude, magnitude).astype(np.float32)
    return values


def _e8m0() -> npt.NDArray[np.float32]:
    """Eight exponent bits, bias 127, and 0xFF is NaN (OCP Microscaling Formats 1.0, section 5.4.1)."""
    values = (2.0 ** (np.arange(256) - 127.0)).astype(np.float32)
    values[0xFF] = np.nan
    return values


with np.errstate(over="ignore"):  # 2 ** 128, the place of NaN
    _TABLES = {"F8_E4M3": _e4m3(), "F8_E5M2": _e5m2(), "F8_E8M0": _e8m0()}

"""GPT-OSS's MXFP4 blocks in ggml's order of nibbles: moved bit for bit, never quantised again.

A block has 32 FP4 numbers in 16 bytes and one E8M0 exponent. The checkpoint keeps numbers 2i and 2i + 1 in
byte i; ggml's `block_mxfp4` (ggml-common.h) has the exponent first, then numbers i and i + 16 in byte i. Low
nibbles come first in both. Knows no tensor and no file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

BLOCK = 32
STORED_BLOCK_BYTES = 16
GGML_BLOCK_BYTES = 17
NAN_EXPONENT = 0xFF  # OCP Microscaling Formats 1.0, section 5.4.1


def to_ggml(
    blocks: npt.NDArray[np.uint8], exponents: npt.NDArray[np.uint8], into: npt.NDArray[np.uint8]
) -> None:
    """Write `blocks` [n, 16] with their `exponents` [n] to `into` [n, 17] as ggml stores them."""
    front, back = blocks[:, :8], blocks[:, 8:]
    into[:, 0] = exponents
    into[:, 1::2] = front & 0x0F | back << 4
    into[:, 2::2] = front >> 4 | back & 0xF0

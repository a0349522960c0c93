"""Where the weights come from: named tensors in shards, read by byte ranges. Knows no model family.

A source never holds a tensor in memory. `read` is called by many threads at once and copies exactly the
bytes that are asked for, with pread rather than a memory map: a file that is cut while it is read is then
an error and not a SIGBUS, and the memory in use is what we allocate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceTensor:
    """A tensor of the source. `dtype` is safetensors' name (`BF16`, `F8_E4M3`, …) or a GGUF type (`Q8_0`)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    """Outermost first, as in safetensors and numpy; the last is the row length. `()` is a scalar."""
    shard: str
    """Name of the file it is in."""
    offset_bytes: int
    """Of its first byte from the start of the shard."""
    n_bytes: int


class TensorSource(Protocol):
    """A checkpoint's tensors, or a GGUF's."""

    @property
    def tensors(self) -> Mapping[str, SourceTensor]: ...

    @property
    def shards(self) -> tuple[str, ...]:
        """All shards, in the order in which they should be worked through."""

    @property
    def fingerprint(self) -> str:
        """Hex digest over all that decides the tensors' bytes: headers, file sizes and times, or commit."""

    def fetch(self, shard: str) -> None:
        """Make sure that `shard` can be read; downloads it when it is remote. Raise `EdgeappError`."""

    def release(self, shard: str) -> None:
        """Tell that nothing more is read from `shard` in this run."""

    def read(self, tensor: SourceTensor, offset_bytes: int, into: memoryview) -> None:
        """Fill `into` from byte `offset_bytes` of `tensor`. Raise `InvalidCheckpoint` for missing bytes."""

    def sha256(self) -> str:
        """Return one hash over the content of all shards; reads them all when nobody else knows it."""

    def close(self) -> None: ...

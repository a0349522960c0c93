"""Write GGUF files byte by byte, correct or wrong on purpose; the gguf package only writes correct ones."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

U8, U16, U32, I32, F32, BOOL, STRING, ARRAY, U64 = 0, 2, 4, 5, 6, 7, 8, 9, 10
_CODES = {U8: "B", U16: "H", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q"}


@dataclass(frozen=True, kw_only=True)
class Value:
    """A typed value, encoded."""

    type_id: int
    payload: bytes


def number(value: float, type_id: int = U32) -> Value:
    return Value(type_id=type_id, payload=struct.pack(f"<{_CODES[type_id]}", value))


def text(value: str | bytes) -> Value:
    return Value(type_id=STRING, payload=string_bytes(value))


def array(type_id: int, values: list[int] | list[float] | list[str]) -> Value:
    return raw_array(type_id, len(values), b"".join(_element(type_id, value) for value in values))


def raw_array(type_id: int, count: int, payload: bytes) -> Value:
    return Value(type_id=ARRAY, payload=struct.pack("<IQ", type_id, count) + payload)


def string_bytes(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def _element(type_id: int, value: float | str) -> bytes:
    return string_bytes(value) if isinstance(value, str) else struct.pack(f"<{_CODES[type_id]}", value)


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One tensor description; `offset_bytes` None takes the running padded sum."""

    name: str = "token_embd.weight"
    shape: tuple[int, ...] = (8, 4)
    type_id: int = 0
    n_bytes: int = 128
    offset_bytes: int | None = None
    n_dims: int | None = None


def model_keys(**changes: Value | None) -> dict[str, Value]:
    """The keys of a minimal dense llama. In `changes` write `__` for a dot; None removes a key."""
    keys: dict[str, Value] = {
        "general.architecture": text("llama"),
        "llama.block_count": number(2),
        "llama.context_length": number(64),
        "llama.embedding_length": number(8),
        "llama.attention.head_count": number(2),
        "tokenizer.ggml.model": text("llama"),
        "tokenizer.ggml.tokens": array(STRING, ["<unk>", "<s>", "</s>", "<0x0A>"]),
        "tokenizer.ggml.scores": array(F32, [0.0, 0.0, 0.0, 0.0]),
        "tokenizer.ggml.token_type": array(I32, [2, 3, 3, 6]),
        "tokenizer.ggml.eos_token_id": number(2),
    }
    for name, value in changes.items():
        key = name.replace("__", ".")
        if value is None:
            del keys[key]
        else:
            keys[key] = value
    return keys


@dataclass(frozen=True, kw_only=True)
class GgufBytes:
    """A file to write. The counts can lie."""

    keys: list[tuple[str, Value]] = field(default_factory=lambda: list(model_keys().items()))
    tensors: tuple[TensorSpec, ...] = (TensorSpec(),)
    version: int = 3
    alignment_bytes: int = 32
    n_keys: int | None = None
    n_tensors: int | None = None
    with_data: bool = True

    def encode(self) -> bytes:
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        n_keys = len(self.keys) if self.n_keys is None else self.n_keys
        out = bytearray(b"GGUF" + struct.pack("<IQQ", self.version, n_tensors, n_keys))
        for key, value in self.keys:
            out += string_bytes(key) + struct.pack("<I", value.type_id) + value.payload
        offset_bytes = 0
        for tensor in self.tensors:
            stated = offset_bytes if tensor.offset_bytes is None else tensor.offset_bytes
            n_dims = len(tensor.shape) if tensor.n_dims is None else tensor.n_dims
            out += string_bytes(tensor.name) + struct.pack("<I", n_dims)
            out += struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape)
            out += struct.pack("<IQ", tensor.type_id, stated)
            offset_bytes += self._padded(tensor.n_bytes)
        out += bytes(self._padded(len(out)) - len(out))
        return bytes(out) + (bytes(offset_bytes) if self.with_data else b"")

    def _padded(self, n_bytes: int) -> int:
        return -(-n_bytes // self.alignment_bytes) * self.alignment_bytes

"""Check a LoRA adapter's file against its base model before llama.cpp reads it. Knows headers, no engine.

llama.cpp compares two dimensions of each matrix and trusts the rest: a stack for fewer experts than the
model has, or integers instead of floats, crash the process when the first token is decoded.
Format: llama.cpp's convert_lora_to_gguf.py and src/llama-adapter.cpp.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeapp.cleantext import clean_line
from edgeapp.errors import InvalidModel, UnsupportedModel, UsageError
from edgeapp.gguf_info.header import FLOAT32_TYPE
from edgeapp.gguf_info.parts import read_header
from edgeapp.gguf_info.reader import DAMAGED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from edgeapp.gguf_info.header import Header, Tensor

_TYPES = frozenset({"F32", "F16", "BF16", "Q8_0"})  # what convert_lora_to_gguf.py can write
_ANOTHER_BASE = "The adapter belongs to another base model."
_EMBEDDING = "token_embd.weight"


@dataclass(frozen=True, kw_only=True)
class AdapterFile:
    """`n_weights` of the model's weights are changed; `sha256` is that of the whole file."""

    n_weights: int
    sha256: str


def check_adapter(path: Path, base: Sequence[Header]) -> AdapterFile:
    """Return the facts about an adapter that fits the model with the headers `base`.

    Raise `UsageError` for another kind of file or another base model, `UnsupportedModel` for what llama.cpp
    would apply wrongly, and the errors of `read_header` for a missing or damaged file.
    """
    header = read_header(path)
    _check_kind(header, base[0])
    _check_alpha(header)
    weights = {tensor.name: tensor for part in base for tensor in part.tensors}
    pairs = _pairs(header)
    for name, halves in pairs.items():
        _check_weight(header, name, weights)
        _check_pair(header, weights[name], halves)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return AdapterFile(n_weights=len(pairs), sha256=digest)


def _check_kind(header: Header, base: Header) -> None:
    kind, adapter_type = header.text("general.type"), header.text("adapter.type")
    if kind != "adapter" or adapter_type != "lora":
        raise UsageError(
            f'{header.shown} is not a LoRA adapter: its type is "{adapter_type or kind or "unknown"}".',
            hint="llama.cpp's convert_lora_to_gguf.py makes a GGUF of a PEFT adapter.",
        )
    arch, expected = header.text("general.architecture"), base.text("general.architecture")
    if arch != expected:
        raise UsageError(
            f'{header.shown} is for the architecture "{arch}", the model has "{expected}".',
            hint=_ANOTHER_BASE,
        )
    if header.array("adapter.alora.invocation_tokens") is not None:
        raise UnsupportedModel(
            f"{header.shown} is an activated LoRA, which works only behind certain tokens.",
            hint="Use a plain LoRA adapter.",
        )


def _check_alpha(header: Header) -> None:
    alpha = header.values.get("adapter.lora.alpha")
    if header.type_ids.get("adapter.lora.alpha") != FLOAT32_TYPE or not isinstance(alpha, float):
        raise InvalidModel(f"{header.shown} has no adapter.lora.alpha of type float32.", hint=DAMAGED)
    if not math.isfinite(alpha):
        raise InvalidModel(f"{header.shown}: adapter.lora.alpha is {alpha}.", hint=DAMAGED)


def _pairs(header: Header) -> Mapping[str, Mapping[str, Tensor]]:
    """Return for each weight its `lora_a` and `lora_b`. Norms are left out: llama.cpp ignores them."""
    pairs: dict[str, dict[str, Tensor]] = {}
    for tensor in header.tensors:
        name, _, half = tensor.name.rpartition(".")
        if half in {"lora_a", "lora_b"}:
            pairs.setdefault(name, {})[half] = tensor
        elif not tensor.name.endswith("_norm.weight"):
            raise InvalidModel(
                f"{header.shown}: {clean_line(tensor.name)} is neither a lora_a nor a lora_b.", hint=DAMAGED
            )
    if not pairs:
        raise InvalidModel(f"{header.shown} holds no LoRA matrices.", hint=DAMAGED)
    for name, halves in pairs.items():
        if len(halves) == 1:
            raise InvalidModel(
                f"{header.shown}: {clean_line(name)} has a {next(iter(halves))} without the other half.",
                hint=DAMAGED,
            )
    return pairs


def _check_weight(header: Header, name: str, weights: Mapping[str, Tensor]) -> None:
    weight, shown = weights.get(name), clean_line(name)
    if weight is None:
        raise UsageError(
            f"{header.shown} changes {shown}, which the model does not have.", hint=_ANOTHER_BASE
        )
    if len(weight.shape) == 1:
        raise UnsupportedModel(f"{header.shown} changes {shown}, which is not a matrix.", hint=_ANOTHER_BASE)
    if weight.type.name == "NVFP4":
        raise UnsupportedModel(
            f"{header.shown} changes {shown}, and llama.cpp applies no adapter to NVFP4 weights.",
            hint="Use a quantisation of the base model of another type.",
        )
    if name == _EMBEDDING and "output.weight" not in weights:
        raise UnsupportedModel(
            f"{header.shown} changes {shown}, and llama.cpp cannot do that where the output layer shares it.",
            hint="Train the adapter without the embedding.",
        )


def _check_pair(header: Header, weight: Tensor, halves: Mapping[str, Tensor]) -> None:
    expected = _expected_shapes(weight, rank=_dimensions(halves["lora_b"])[0])
    for tensor, shape in zip((halves["lora_a"], halves["lora_b"]), expected, strict=True):
        if _dimensions(tensor) != shape:
            raise UsageError(
                f"{header.shown}: {clean_line(tensor.name)} has the shape {tensor.shape}, "
                f"the model's {weight.shape} needs {shape[: len(weight.shape)]}.",
                hint=_ANOTHER_BASE,
            )
        if tensor.type.name not in _TYPES:
            raise UnsupportedModel(
                f"{header.shown}: {clean_line(tensor.name)} has the type {tensor.type.name}.",
                hint="Convert the adapter to F32, F16, BF16 or Q8_0.",
            )


def _expected_shapes(weight: Tensor, *, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of `lora_a` and `lora_b` in ggml's order; those of the embedding are turned."""
    n_in, n_out, *stack = _dimensions(weight)
    if weight.name.endswith(_EMBEDDING):
        return (rank, n_out, *stack), (rank, n_in, *stack)
    return (n_in, rank, *stack), (rank, n_out, *stack)


def _dimensions(tensor: Tensor) -> tuple[int, ...]:
    return (*tensor.shape, 1, 1, 1, 1)[:4]  # GGML_MAX_DIMS

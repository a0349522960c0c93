"""How many bytes and parameters each layer has, and of what kind: what a placement moves around.

Which tensors belong to the input and output follows `llm_tensor_info` of src/llama-arch.cpp.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgeapp.gguf_info.header import Tensor

_LAYER = re.compile(r"blk\.(\d{1,6})\.")
_EXPERTS = re.compile(r"\.ffn_(gate_up|gate|up|down)_(?:ch)?exps")
_INPUT = re.compile(r"(?:token_embd|position_embd|token_types|per_layer_token_embd)\.")


@dataclass(frozen=True, kw_only=True)
class LayerBytes:
    """One layer. Routed experts apart from what works on every token."""

    dense_bytes: int = 0
    dense_parameters: int = 0
    gate_up_bytes: int = 0
    down_bytes: int = 0
    expert_parameters: int = 0


@dataclass(frozen=True, kw_only=True)
class TensorBytes:
    """The whole model by place."""

    layers: tuple[LayerBytes, ...]
    input_bytes: int
    """Looked up, not multiplied with: llama.cpp leaves it in host memory."""
    embedding_bytes: int
    """The token embedding's part of `input_bytes`."""
    output_bytes: int
    """0 in `has_output` False means that the token embedding serves as output too."""
    output_parameters: int
    has_output: bool
    largest_expert_tensor_bytes: int


def tensor_bytes(tensors: Iterable[Tensor], n_layer: int) -> TensorBytes:
    """Sum `tensors` up; one whose layer is not among `n_layer` counts as output."""
    layers = [dict[str, int]() for _ in range(n_layer)]
    whole: dict[str, int] = {}
    has_output = False
    for tensor in tensors:
        has_output |= tensor.name == "output.weight"
        match = _LAYER.match(tensor.name)
        if match and int(match[1]) < n_layer:
            _add_to_layer(layers[int(match[1])], tensor)
        else:
            _add_to_whole(whole, tensor)
        if _EXPERTS.search(tensor.name):
            whole["largest"] = max(whole.get("largest", 0), tensor.n_bytes)
    return TensorBytes(
        layers=tuple(LayerBytes(**sums) for sums in layers),
        input_bytes=whole.get("input", 0),
        embedding_bytes=whole.get("embedding", 0),
        output_bytes=whole.get("output", 0),
        output_parameters=whole.get("output_parameters", 0),
        has_output=has_output,
        largest_expert_tensor_bytes=whole.get("largest", 0),
    )


def _add_to_layer(sums: dict[str, int], tensor: Tensor) -> None:
    match = _EXPERTS.search(tensor.name)
    kind = "dense" if match is None else "down" if match[1] == "down" else "gate_up"
    _add(sums, f"{kind}_bytes", tensor.n_bytes)
    _add(sums, "expert_parameters" if match else "dense_parameters", tensor.n_parameters)


def _add_to_whole(sums: dict[str, int], tensor: Tensor) -> None:
    if _INPUT.match(tensor.name):
        _add(sums, "input", tensor.n_bytes)
        if tensor.name.startswith("token_embd."):
            _add(sums, "embedding", tensor.n_bytes)
            _add(sums, "embedding_parameters", tensor.n_parameters)
        return
    _add(sums, "output", tensor.n_bytes)
    _add(sums, "output_parameters", tensor.n_parameters)


def _add(sums: dict[str, int], name: str, amount: int) -> None:
    sums[name] = sums.get(name, 0) + amount

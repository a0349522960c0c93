"""What the planner knows of a model: bytes and work by layer. Frozen values; reads nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgeapp.gguf_info.cache_layers import LayerCache

if TYPE_CHECKING:
    from edgeapp.gguf_info import GgufInfo, LayerBytes


@dataclass(frozen=True, kw_only=True)
class LayerShape:
    """One layer's weights in bytes and parameters, and what it keeps of the text."""

    dense_bytes: int
    dense_parameters: int
    gate_up_bytes: int = 0
    down_bytes: int = 0
    expert_parameters: int = 0
    cache: LayerCache = field(default_factory=LayerCache)

    @property
    def expert_bytes(self) -> int:
        return self.gate_up_bytes + self.down_bytes


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A model for the planner."""

    layers: tuple[LayerShape, ...]
    """All of the header's, in order. Those for multi-token prediction are not loaded and weigh nothing."""
    input_bytes: int
    """The token embedding, which llama.cpp leaves in host memory (src/llama-model.cpp, `dev_input`)."""
    output_bytes: int
    output_parameters: int
    tied_bytes: int
    """The part of `output_bytes` that is a second copy of the token embedding."""
    n_vocab: int
    n_embd: int
    n_ctx_train: int
    n_expert: int
    n_expert_used: int
    n_ff_expert: int
    """Width of one expert; 0 in a dense model."""
    attention_width: int
    """Values of all query heads of a layer together."""
    head_dims: tuple[int, ...]
    is_recurrent: bool
    largest_expert_tensor_bytes: int
    beside_bytes: int = 0
    """What else has to be on the GPU: a projector, adapters."""

    @property
    def expert_share(self) -> float:
        """The part of the routed experts that works on one token."""
        return self.n_expert_used / self.n_expert if self.n_expert else 1.0

    @property
    def expert_layers(self) -> tuple[int, ...]:
        return tuple(number for number, layer in enumerate(self.layers) if layer.expert_bytes)

    @property
    def weight_bytes(self) -> int:
        """What is loaded, a second copy of the embedding not counted."""
        in_layers = sum(layer.dense_bytes + layer.expert_bytes for layer in self.layers)
        return self.input_bytes + self.output_bytes - self.tied_bytes + in_layers


def model_shape(info: GgufInfo, *, beside_bytes: int = 0) -> ModelShape:
    """Return the shape of `info`; `beside_bytes` of a projector or adapters go to the GPU with it."""
    tensors = info.tensors
    tied_bytes = 0 if tensors.has_output else tensors.embedding_bytes
    layers = tuple(map(_layer, tensors.layers, info.cache.layers))
    return ModelShape(
        layers=layers[: info.n_layer - info.n_layer_nextn]
        + tuple(
            LayerShape(dense_bytes=0, dense_parameters=0, cache=layer.cache)
            for layer in layers[info.n_layer - info.n_layer_nextn :]
        ),
        input_bytes=tensors.input_bytes,
        output_bytes=tensors.output_bytes + tied_bytes,
        output_parameters=tensors.output_parameters
        + (0 if tensors.has_output else info.n_vocab * info.n_embd),
        tied_bytes=tied_bytes,
        n_vocab=info.n_vocab,
        n_embd=info.n_embd,
        n_ctx_train=info.n_ctx_train,
        n_expert=info.n_expert,
        n_expert_used=info.n_expert_used,
        n_ff_expert=_n_ff_expert(info),
        attention_width=info.n_head * info.head_dim_k,
        head_dims=info.cache.head_dims,
        is_recurrent=info.is_recurrent,
        largest_expert_tensor_bytes=tensors.largest_expert_tensor_bytes,
        beside_bytes=beside_bytes,
    )


def _layer(weights: LayerBytes, cache: LayerCache) -> LayerShape:
    return LayerShape(
        dense_bytes=weights.dense_bytes,
        dense_parameters=weights.dense_parameters,
        gate_up_bytes=weights.gate_up_bytes,
        down_bytes=weights.down_bytes,
        expert_parameters=weights.expert_parameters,
        cache=cache,
    )


def _n_ff_expert(info: GgufInfo) -> int:
    """An expert is three matrices of n_embd × its width."""
    most = max((layer.expert_parameters for layer in info.tensors.layers), default=0)
    return most // (3 * info.n_embd * info.n_expert) if info.n_expert else 0

"""What each layer keeps of the text it has read, from the hyper-parameters, as the pinned llama.cpp does it.

Values, not bytes: their types, the context and the number of sequences are the user's choice. Sources: what
`llama_model::create_memory` (src/llama-model.cpp) builds for the architecture, `load_arch_hparams` in
src/models/, and the constructors in src/llama-kv-cache*.cpp and src/llama-memory-recurrent.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeapp.gguf_arch import RECURRENT_ARCHITECTURES
from edgeapp.gguf_info.hyperparameters import MAX_INT32
from edgeapp.gguf_info.recurrent_layers import recurrent_layers, state_values
from edgeapp.gguf_info.sliding_window import sliding_window

if TYPE_CHECKING:
    from edgeapp.gguf_info.hyperparameters import Fields, Hyperparameters

_WITHOUT_MEMORY = frozenset({"dream", "llada", "llada-moe", "rnd1", "t5", "t5encoder", "gemma-embedding"})
"""Encoders and diffusion models; bidirectional ones say `attention.causal` false besides."""
_BOTH = frozenset({"falcon-h1"})
"""Attention and a recurrent state side by side in every layer."""
_FEED_FORWARD_LAYERS = frozenset({"nemotron_h", "nemotron_h_moe"})
"""Layers that are nothing but a feed-forward network remember nothing."""
_TRUNK_ONLY = frozenset({"qwen3next", "qwen35", "qwen35moe", "qwen4exp", "minimax-01", "glm5-next"})
_INDEXED = frozenset({"deepseek32", "glm-dsa", "hy-v4", "dots3note", "glm5-next", "minimax-m3", "qwen4exp"})
"""Sparse attention: one more key per token says where to look."""
_LATENT_RANK_IS_VALUE = frozenset({"kimi-k3", "glm5-next"})
_GEMMA3N_LAYERS_WITH_CACHE = 20  # src/models/gemma3n.cpp
_NOT_EXACT = frozenset({"deepseek4", "nanbeige", "granite-switch", "gemma4-assistant", "dflash", *_INDEXED})


@dataclass(frozen=True, kw_only=True)
class LayerCache:
    """Values that one layer keeps: of every token, and of every sequence whatever its length."""

    k_values: int = 0
    v_values: int = 0
    index_values: int = 0
    window: int = 0
    """Tokens that a sliding window sees; 0 is all."""
    state_values: int = 0
    """A recurrent state, always F32."""

    @property
    def token_values(self) -> int:
        return self.k_values + self.v_values + self.index_values


@dataclass(frozen=True, kw_only=True)
class CacheLayout:
    """One entry for each of the header's layers, those for multi-token prediction included."""

    layers: tuple[LayerCache, ...]
    is_exact: bool
    """False where the architecture has a memory of its own kind; then at least what is kept is said."""
    head_dims: tuple[int, ...]
    """Sizes of a key or value head; a quantised type's block has to divide them."""


def cache_layout(fields: Fields, arch: str, hyper: Hyperparameters, *, is_causal: bool) -> CacheLayout:
    """Raise `InvalidModel` for a value of the wrong type or out of bounds."""
    if arch in _WITHOUT_MEMORY or not is_causal:
        nothing = tuple(LayerCache() for _ in range(hyper.n_layer))
        return CacheLayout(layers=nothing, is_exact=True, head_dims=())
    layers = tuple(_layers(fields, arch, hyper))
    heads = {hyper.head_dim_k, hyper.head_dim_v} | {
        fields.optional("attention.key_length_swa"),
        fields.optional("attention.value_length_swa"),
    }
    return CacheLayout(layers=layers, is_exact=arch not in _NOT_EXACT, head_dims=tuple(sorted(heads - {0})))


def _layers(fields: Fields, arch: str, hyper: Hyperparameters) -> list[LayerCache]:
    n_layer_trunk = hyper.n_layer - hyper.n_layer_nextn
    is_recurrent = recurrent_layers(fields, arch, hyper)
    attention = _attention(fields, arch, hyper, is_recurrent)
    state = state_values(fields, arch, hyper)
    layers = []
    for layer in range(hyper.n_layer):
        is_trunk = layer < n_layer_trunk
        keeps_state = is_recurrent[layer] and is_trunk
        if arch in _FEED_FORWARD_LAYERS and _n_ff(fields, hyper)[layer]:
            layers.append(LayerCache())
        elif keeps_state and arch in _BOTH:
            layers.append(replace(attention[layer], state_values=state))
        elif keeps_state:
            layers.append(LayerCache(state_values=state))
        elif is_trunk or _next_token_layers_keep(arch):
            layers.append(attention[layer])
        else:
            layers.append(LayerCache())
    return layers


def _n_ff(fields: Fields, hyper: Hyperparameters) -> tuple[int, ...]:
    return fields.by_layer("feed_forward_length", hyper.n_layer, high=MAX_INT32)


def _next_token_layers_keep(arch: str) -> bool:
    """Hybrids filter by "is not recurrent", which layers for multi-token prediction are not."""
    return arch in RECURRENT_ARCHITECTURES - _TRUNK_ONLY - _FEED_FORWARD_LAYERS


def _attention(
    fields: Fields, arch: str, hyper: Hyperparameters, is_recurrent: tuple[bool, ...]
) -> list[LayerCache]:
    """Return every layer's KV as if it had attention; without key-value heads there is none."""
    window, is_sliding = sliding_window(fields, arch, hyper, is_recurrent)
    k_swa = fields.optional("attention.key_length_swa") or hyper.head_dim_k
    v_swa = fields.optional("attention.value_length_swa") or hyper.head_dim_v
    is_latent = fields.optional("attention.key_length_mla") > 0
    v_full = hyper.head_dim_v
    if arch in _LATENT_RANK_IS_VALUE:
        v_full = fields.optional("attention.kv_lora_rank") or v_full
    index = fields.optional("attention.indexer.key_length") if arch in _INDEXED else 0
    n_with_cache = _n_layers_with_cache(fields, arch, hyper)
    layers = []
    for layer, n_head_kv in enumerate(hyper.n_head_kv_by_layer):
        k, v = (k_swa, v_swa) if is_sliding[layer] else (hyper.head_dim_k, v_full)
        if layer >= n_with_cache or not n_head_kv:
            layers.append(LayerCache())
            continue
        layers.append(
            LayerCache(
                k_values=n_head_kv * k,
                v_values=0 if is_latent else n_head_kv * v,  # the latent key is the value too
                index_values=0 if is_sliding[layer] else index,
                window=window if is_sliding[layer] else 0,
            )
        )
    return layers


def _n_layers_with_cache(fields: Fields, arch: str, hyper: Hyperparameters) -> int:
    """Later layers of some models read the cache of an earlier one."""
    if arch == "gemma3n":
        return _GEMMA3N_LAYERS_WITH_CACHE
    if arch == "gemma4":
        return hyper.n_layer - fields.optional("attention.shared_kv_layers", high=hyper.n_layer)
    return hyper.n_layer

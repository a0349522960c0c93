"""Which layers keep a recurrent state instead of keys and values, and how large it is.

Sources: `load_arch_hparams` in src/models/, `llama_hparams::n_embd_r` and `n_embd_s` (src/llama-hparams.cpp).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.gguf_arch import RECURRENT_ARCHITECTURES
from edgeapp.gguf_info.hyperparameters import MAX_INT32

if TYPE_CHECKING:
    from edgeapp.gguf_info.hyperparameters import Fields, Hyperparameters

_EVERY_LAYER = frozenset({"arwkv7", "falcon-h1", "mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7"})
_FULL_ATTENTION_INTERVAL = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4, "qwen4exp": 4, "minimax-01": 8}
"""Every so many layers one has attention, where the header does not say so."""
_RWKV_TOKEN_SHIFT = 2
_KDA_CONVOLUTION = 3


def recurrent_layers(fields: Fields, arch: str, hyper: Hyperparameters) -> tuple[bool, ...]:
    """Return for each layer whether it keeps a state."""
    if arch not in RECURRENT_ARCHITECTURES or arch == "deepseek4":
        return (False,) * hyper.n_layer
    if arch in _EVERY_LAYER:
        return (True,) * hyper.n_layer
    if arch in _FULL_ATTENTION_INTERVAL:
        return _by_interval(fields, hyper, default=_FULL_ATTENTION_INTERVAL[arch])
    # The others mark such a layer by having no key-value heads.
    return tuple(n_head_kv == 0 for n_head_kv in hyper.n_head_kv_by_layer)


def _by_interval(fields: Fields, hyper: Hyperparameters, *, default: int) -> tuple[bool, ...]:
    flags = fields.flags("attention.recurrent_layers")
    if flags is not None:
        return (flags + (False,) * hyper.n_layer)[: hyper.n_layer]
    interval = fields.number("full_attention_interval", low=1, high=MAX_INT32, default=default)
    n_trunk = hyper.n_layer - hyper.n_layer_nextn
    return tuple(layer < n_trunk and (layer + 1) % interval != 0 for layer in range(hyper.n_layer))


def state_values(fields: Fields, arch: str, hyper: Hyperparameters) -> int:
    """Return the values that one recurrent layer keeps of one sequence: its convolution's and its state's."""
    if arch not in RECURRENT_ARCHITECTURES:
        return 0
    n_head = hyper.n_head_by_layer[0]
    if head := fields.optional("wkv.head_size"):
        n_shifted = fields.number("token_shift_count", low=0, high=MAX_INT32, default=_RWKV_TOKEN_SHIFT)
        return hyper.n_embd * (n_shifted + head)
    kernel = fields.optional("ssm.conv_kernel")
    d_state = fields.optional("ssm.state_size")
    d_inner = fields.optional("ssm.inner_size")
    scan = d_state * d_inner
    if n_kept := fields.optional("shortconv.l_cache"):
        return hyper.n_embd * (n_kept - 1) + scan
    if head := fields.optional("kda.head_dim"):
        n_convolved = kernel - 1 if kernel else _KDA_CONVOLUTION
        return n_head * head * (3 * n_convolved + head)
    if arch == "minimax-01":
        scan = hyper.head_dim_k**2 * n_head
    n_groups = fields.optional("ssm.group_count")
    return max(kernel - 1, 0) * (d_inner + 2 * n_groups * d_state) + scan

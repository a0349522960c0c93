"""The sizes of a Mixture-of-Experts checkpoint, as its config.json gives them. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tests.gguf_bytes import Value


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A checkpoint's sizes. `n_ff` is the width of a dense layer, `n_ff_exp` that of one routed expert."""

    arch: str
    n_parameters: float
    n_layer: int
    n_ctx: int
    n_vocab: int
    n_embd: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_expert: int
    n_expert_used: int
    n_ff_exp: int
    n_ff: int
    n_ff_shared: int = 0
    """All shared experts together."""
    n_dense_lead: int = 0
    """Leading layers without experts."""
    n_nextn: int = 0
    """Trailing layers for multi-token prediction, which a plain chat does not load; part of `n_layer`."""
    attention_layers: tuple[int, ...] | None = None
    """Which layers attend, in a hybrid; None is all."""
    qk_norm: Literal["no", "head", "wide"] = "no"
    """Norms of queries and keys: over one head, or over all heads together."""
    qkv_bias: bool = False
    all_biases: bool = False
    """Norms, attention output and the model's output have biases too."""
    tied: bool = False
    """The output uses the embeddings."""
    expert_type: str = "Q4_K"
    dense_type: str = "Q6_K"
    embeddings_type: str = "Q4_K"
    q_lora_rank: int = 0
    kv_lora_rank: int = 0
    """Above 0: multi-head latent attention."""
    rope_dim: int = 0
    """How much of a head is rotated; 0 is all of it."""
    is_sigmoid_gated: bool = False
    n_swa: int = 0
    keys: tuple[tuple[str, Value], ...] = ()
    """Further keys, without the architecture before them."""

    def attends(self, layer: int) -> bool:
        return self.attention_layers is None or layer in self.attention_layers

    def is_dense(self, layer: int) -> bool:
        return layer < self.n_dense_lead

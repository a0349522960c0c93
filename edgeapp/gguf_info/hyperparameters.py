"""The numbers that shape a model, checked as llama.cpp asserts them (src/llama-model.cpp, load_hparams).

There a violation aborts the process; here it is an error with the number in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeapp.errors import InvalidModel
from edgeapp.gguf_info.header import Span
from edgeapp.gguf_info.reader import DAMAGED

if TYPE_CHECKING:
    from edgeapp.gguf_info.header import Header

MAX_LAYERS = 512  # LLAMA_MAX_LAYERS (src/llama-hparams.h)
MAX_EXPERTS = 1024  # LLAMA_MAX_EXPERTS
MAX_WIDTH = 1 << 20  # embedding, heads and head size: far above any model, small enough to multiply
MAX_INT32 = (1 << 31) - 1


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """What the header says; per-layer values have one entry per layer."""

    n_layer: int
    n_layer_nextn: int
    n_ctx_train: int
    n_embd: int
    n_head_by_layer: tuple[int, ...]
    n_head_kv_by_layer: tuple[int, ...]
    head_dim_k: int
    head_dim_v: int
    n_expert: int
    n_expert_used_by_layer: tuple[int, ...]


def read_hyperparameters(header: Header, arch: str) -> Hyperparameters:
    """Raise `InvalidModel` for a value that is missing, of the wrong type or out of bounds."""
    fields = Fields(header, arch)
    n_layer = fields.number("block_count", low=1, high=MAX_LAYERS)
    n_embd = fields.number("embedding_length", low=1, high=MAX_WIDTH)
    n_head = fields.by_layer("attention.head_count", n_layer, high=MAX_WIDTH)
    n_head_kv = fields.by_layer("attention.head_count_kv", n_layer, high=MAX_WIDTH, default=n_head)
    most_heads = max(n_head)
    head_dim = n_embd // most_heads if most_heads else 0
    n_expert = fields.number("expert_count", low=0, high=MAX_EXPERTS, default=0)
    n_expert_used = fields.by_layer("expert_used_count", n_layer, high=MAX_INT32)
    _check_heads(header, n_head, n_head_kv)
    _check_experts(header, n_expert, max(n_expert_used))
    _check_expert_groups(header, fields, n_expert)
    _check_epsilons(header, arch)
    return Hyperparameters(
        n_layer=n_layer,
        n_layer_nextn=fields.number("nextn_predict_layers", low=0, high=n_layer, default=0),
        n_ctx_train=fields.number("context_length", low=1, high=MAX_INT32),
        n_embd=n_embd,
        n_head_by_layer=n_head,
        n_head_kv_by_layer=n_head_kv,
        head_dim_k=fields.number("attention.key_length", low=0, high=MAX_WIDTH, default=head_dim),
        head_dim_v=fields.number("attention.value_length", low=0, high=MAX_WIDTH, default=head_dim),
        n_expert=n_expert,
        n_expert_used_by_layer=n_expert_used,
    )


class Fields:
    """Bounded reads of `{arch}.*` keys."""

    def __init__(self, header: Header, arch: str) -> None:
        self._header = header
        self._arch = arch

    def optional(self, name: str, *, high: int = MAX_WIDTH) -> int:
        """Return a number; 0 where the header does not say it."""
        return self.number(name, low=0, high=high, default=0)

    def flags(self, name: str) -> tuple[bool, ...] | None:
        """Return an array of flags by layer; None where there is none, or one number instead."""
        key = f"{self._arch}.{name}"
        if not isinstance(self._header.values.get(key), Span):
            return None
        values = self._header.integers(key, max_count=MAX_LAYERS)
        return None if values is None else tuple(map(bool, values))

    def number(self, name: str, *, low: int, high: int, default: int | None = None) -> int:
        key = f"{self._arch}.{name}"
        value = self._header.integer(key)
        if value is None:
            value = default
        if value is None:
            raise InvalidModel(f"{self._header.shown} does not say {key}.", hint=DAMAGED)
        return self._bounded(key, value, low=low, high=high)

    def by_layer(
        self, name: str, n_layer: int, *, high: int, default: tuple[int, ...] = (0,)
    ) -> tuple[int, ...]:
        """Return one value per layer from one number for all, or from an array of `n_layer`."""
        key = f"{self._arch}.{name}"
        values = self._header.integers(key, max_count=MAX_LAYERS)
        if values is None:
            values = default
        if len(values) not in {1, n_layer}:
            raise InvalidModel(
                f"{self._header.shown}: {key} has {len(values)} values for {n_layer} layers.", hint=DAMAGED
            )
        for value in values:
            self._bounded(key, value, low=0, high=high)
        return values if len(values) == n_layer else values * n_layer

    def _bounded(self, key: str, value: int, *, low: int, high: int) -> int:
        if not low <= value <= high:
            raise InvalidModel(
                f"{self._header.shown}: {key} is {value}; {low} to {high} make sense.", hint=DAMAGED
            )
        return value


def _check_heads(header: Header, n_head: tuple[int, ...], n_head_kv: tuple[int, ...]) -> None:
    for query, key_value in zip(n_head, n_head_kv, strict=True):
        if 0 < query < key_value:
            raise InvalidModel(
                f"{header.shown}: {key_value} key-value heads serve {query} attention heads.", hint=DAMAGED
            )


def _check_experts(header: Header, n_expert: int, n_expert_used: int) -> None:
    if n_expert_used > n_expert or (n_expert and not n_expert_used):
        raise InvalidModel(
            f"{header.shown}: {n_expert_used} of {n_expert} experts cannot be used per token.", hint=DAMAGED
        )


def _check_expert_groups(header: Header, fields: Fields, n_expert: int) -> None:
    n_groups = fields.number("expert_group_count", low=0, high=MAX_INT32, default=0)
    n_used = fields.number("expert_group_used_count", low=0, high=MAX_INT32, default=0)
    if n_groups >= max(n_expert, 1):
        raise InvalidModel(f"{header.shown}: {n_groups} groups for {n_expert} experts.", hint=DAMAGED)
    if n_groups > 1 and (n_expert % n_groups or not 0 < n_used < n_groups):
        raise InvalidModel(
            f"{header.shown}: {n_used} of {n_groups} expert groups cannot be used with {n_expert} experts.",
            hint=DAMAGED,
        )


def _check_epsilons(header: Header, arch: str) -> None:
    """An epsilon below 0, or NaN, aborts the process (ggml/src/ggml-cpu/ops.cpp, rms_norm)."""
    for name in ("layer_norm_epsilon", "layer_norm_rms_epsilon", "group_norm_epsilon"):
        key = f"{arch}.attention.{name}"
        value = header.values.get(key, 0.0)
        if not isinstance(value, float) or not 0.0 <= value <= 1.0:
            shown = value if isinstance(value, float) else "not a float"
            raise InvalidModel(f"{header.shown}: {key} is {shown}; 0 to 1 make sense.", hint=DAMAGED)

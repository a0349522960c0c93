"""How often each expert of each layer was chosen, for one text or several, and the JSON form of it.

The JSON is a contract for other programs: {"model", "n_expert", "n_expert_used", "texts": [{"name",
"n_tokens", "layers": [{"layer", "counts": [...]}]}]}.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from edgeapp.errors import UsageError
from edgeapp.protocol import LayerUsage

if TYPE_CHECKING:
    from collections.abc import Iterable


class TextUsage(msgspec.Struct, frozen=True, kw_only=True):
    """The counts of one text; `n_tokens` tokens were routed in each layer."""

    name: str
    n_tokens: int
    layers: tuple[LayerUsage, ...]


class UsageProfile(msgspec.Struct, frozen=True, kw_only=True):
    """What one model used. Every layer of every text has `n_expert` counts, in the same order of layers."""

    model: str
    n_expert: int
    n_expert_used: int
    texts: tuple[TextUsage, ...]


def added(parts: Iterable[tuple[LayerUsage, ...]]) -> tuple[LayerUsage, ...]:
    """Return the sums of `parts`, layer by layer; a layer may be missing from some of them."""
    sums: dict[int, tuple[int, ...]] = {}
    for layers in parts:
        for usage in layers:
            known = sums.get(usage.layer)
            counts = usage.counts
            sums[usage.layer] = counts if known is None else tuple(map(sum, zip(known, counts, strict=True)))
    return tuple(LayerUsage(layer=layer, counts=sums[layer]) for layer in sorted(sums))


def to_json(profile: UsageProfile) -> bytes:
    return msgspec.json.encode(profile)


def from_json(data: bytes) -> UsageProfile:
    """Raise `UsageError` for anything that is not an expert histogram."""
    try:
        profile = msgspec.json.decode(data, type=UsageProfile)
    except msgspec.MsgspecError as problem:
        raise UsageError(
            f"This is no expert histogram: {problem}.", hint="`edgeapp profile --output` writes one."
        ) from problem
    layers = [usage for text in profile.texts for usage in text.layers]
    if any(len(usage.counts) != profile.n_expert or min(usage.counts, default=0) < 0 for usage in layers):
        raise UsageError(
            f"This is no expert histogram: a layer has not {profile.n_expert} counts of 0 or more.",
            hint="`edgeapp profile --output` writes one.",
        )
    return profile

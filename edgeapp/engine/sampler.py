"""Build llama.cpp's sampler chain for one request. The chain itself runs in C."""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgeapp.engine import bindings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeapp.engine.bindings import SamplerHandle
    from edgeapp.protocol import Sampling

_NEVER = float("-inf")
MIN_TEMP = 1e-6  # below it logits / temperature leaves float32, and greedy is what is meant


@contextmanager
def sampler(settings: Sampling, *, n_vocab: int, banned: tuple[int, ...] = ()) -> Iterator[SamplerHandle]:
    """Yield a chain in llama.cpp's order: top-k, top-p, min-p, temperature, draw. `banned` never appear."""
    links = [bindings.sampler_logit_bias(n_vocab, [(token, _NEVER) for token in banned])] if banned else []
    links += [bindings.sampler_greedy()] if settings.temp < MIN_TEMP else _drawing(settings)
    chain = bindings.sampler_chain(links)
    try:
        yield chain
    finally:
        bindings.free_sampler(chain)


def _drawing(settings: Sampling) -> list[SamplerHandle]:
    seed = secrets.randbits(32) if settings.seed is None else settings.seed & 0xFFFFFFFF
    links = [
        bindings.sampler_top_k(settings.top_k) if settings.top_k > 0 else None,
        bindings.sampler_top_p(settings.top_p) if settings.top_p < 1 else None,
        bindings.sampler_min_p(settings.min_p) if settings.min_p > 0 else None,
        bindings.sampler_temp(settings.temp),
        bindings.sampler_dist(seed),
    ]
    return [link for link in links if link is not None]

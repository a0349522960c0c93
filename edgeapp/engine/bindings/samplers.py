"""llama.cpp's samplers, and chains of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NewType

from edgeapp.engine.bindings.library import c

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.engine.bindings.context import ContextHandle

SamplerHandle = NewType("SamplerHandle", int)


def sampler_chain(links: Sequence[SamplerHandle]) -> SamplerHandle:
    """Join samplers into a chain, which then owns them."""
    params = c.llama_sampler_chain_default_params()
    params.no_perf = True
    chain = c.llama_sampler_chain_init(params)
    for link in links:
        c.llama_sampler_chain_add(chain, link)
    return SamplerHandle(chain)


def sampler_greedy() -> SamplerHandle:
    return SamplerHandle(c.llama_sampler_init_greedy())


def sampler_top_k(k: int) -> SamplerHandle:
    return SamplerHandle(c.llama_sampler_init_top_k(k))


def sampler_top_p(p: float) -> SamplerHandle:
    return SamplerHandle(c.llama_sampler_init_top_p(p, 1))


def sampler_min_p(p: float) -> SamplerHandle:
    return SamplerHandle(c.llama_sampler_init_min_p(p, 1))


def sampler_temp(temp: float) -> SamplerHandle:
    return SamplerHandle(c.llama_sampler_init_temp(temp))


def sampler_dist(seed: int) -> SamplerHandle:
    return SamplerHandle(c.llama_sampler_init_dist(seed))


def sampler_logit_bias(n_vocab: int, biases: Sequence[tuple[int, float]]) -> SamplerHandle:
    array = (c.llama_logit_bias * len(biases))(*((token, bias) for token, bias in biases))
    return SamplerHandle(c.llama_sampler_init_logit_bias(n_vocab, len(biases), array))


def sample(sampler: SamplerHandle, context: ContextHandle) -> int:
    """Choose the next token from the last logits and tell the sampler about it."""
    return int(c.llama_sampler_sample(sampler, context, -1))


def free_sampler(sampler: SamplerHandle) -> None:
    c.llama_sampler_free(sampler)

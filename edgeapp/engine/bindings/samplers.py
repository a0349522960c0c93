"""llama.cpp's samplers, and chains of them.

Every constructor trusts its arguments: `edgeapp.engine.sampling_limits` has checked them, because llama.cpp
would abort its process, or sort by a NaN, where they are absurd.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, NewType

from edgeapp.engine.bindings.library import c

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.engine.bindings.context import ContextHandle
    from edgeapp.engine.bindings.vocabulary import VocabHandle

SamplerHandle = NewType("SamplerHandle", int)

_MIN_KEEP = 0  # llama.cpp common/common.h, common_params_sampling
_MIROSTAT_CANDIDATES = 100  # llama.cpp common/sampling.cpp, m of Mirostat 1


def sampler_chain(links: Sequence[SamplerHandle]) -> SamplerHandle:
    """Join samplers into a chain, which then owns them."""
    params = c.llama_sampler_chain_default_params()
    params.no_perf = True
    chain = c.llama_sampler_chain_init(params)
    for link in links:
        c.llama_sampler_chain_add(chain, link)
    return SamplerHandle(chain)


def sampler_logit_bias(n_vocab: int, biases: Sequence[tuple[int, float]]) -> SamplerHandle:
    array = (c.llama_logit_bias * len(biases))(*((token, bias) for token, bias in biases))
    return SamplerHandle(c.llama_sampler_init_logit_bias(n_vocab, len(biases), array))


def sampler_penalties(
    n_vocab: int, *, last_n: int, repeat: float, frequency: float, presence: float
) -> SamplerHandle:
    """`last_n` tokens that were accepted last are remembered, in memory that is taken at once."""
    return SamplerHandle(c.llama_sampler_init_penalties(n_vocab, last_n, repeat, frequency, presence))


def sampler_dry(
    vocab: VocabHandle,
    *,
    multiplier: float,
    base: float,
    allowed_length: int,
    last_n: int,
    breakers: Sequence[bytes],
) -> SamplerHandle:
    """Build the DRY sampler, which compares every token's text with every breaker: milliseconds for each."""
    array = (ctypes.c_char_p * len(breakers))(*breakers)
    return SamplerHandle(
        c.llama_sampler_init_dry(vocab, multiplier, base, allowed_length, last_n, array, len(breakers))
    )


def sampler_top_n_sigma(n: float) -> SamplerHandle:
    return SamplerHandle(c.llama_sampler_init_top_n_sigma(n))


def sampler_top_k(k: int) -> SamplerHandle:
    return SamplerHandle(c.llama_sampler_init_top_k(k))


def sampler_typical(p: float) -> SamplerHandle:
    return SamplerHandle(c.llama_sampler_init_typical(p, _MIN_KEEP))


def sampler_top_p(p: float) -> SamplerHandle:
    return SamplerHandle(c.llama_sampler_init_top_p(p, _MIN_KEEP))


def sampler_min_p(p: float) -> SamplerHandle:
    return SamplerHandle(c.llama_sampler_init_min_p(p, _MIN_KEEP))


def sampler_xtc(*, probability: float, threshold: float, seed: int) -> SamplerHandle:
    return SamplerHandle(c.llama_sampler_init_xtc(probability, threshold, _MIN_KEEP, seed))


def sampler_temp(temp: float) -> SamplerHandle:
    return SamplerHandle(c.llama_sampler_init_temp(temp))


def sampler_dynamic_temp(temp: float, *, spread: float, exponent: float) -> SamplerHandle:
    return SamplerHandle(c.llama_sampler_init_temp_ext(temp, spread, exponent))


def sampler_mirostat(n_vocab: int, *, seed: int, tau: float, eta: float) -> SamplerHandle:
    return SamplerHandle(c.llama_sampler_init_mirostat(n_vocab, seed, tau, eta, _MIROSTAT_CANDIDATES))


def sampler_mirostat_2(*, seed: int, tau: float, eta: float) -> SamplerHandle:
    return SamplerHandle(c.llama_sampler_init_mirostat_v2(seed, tau, eta))


def sampler_dist(seed: int) -> SamplerHandle:
    return SamplerHandle(c.llama_sampler_init_dist(seed))


def sampler_greedy() -> SamplerHandle:
    return SamplerHandle(c.llama_sampler_init_greedy())


def sample(sampler: SamplerHandle, context: ContextHandle, row: int = -1) -> int:
    """Choose a token from the logits of batch index `row` and tell the sampler about it.

    llama.cpp aborts the process when the last decode computed no logits for `row`.
    """
    return int(c.llama_sampler_sample(sampler, context, row))


def accept(sampler: SamplerHandle, token: int) -> None:
    """Tell the sampler about a token that it has not chosen."""
    c.llama_sampler_accept(sampler, token)


def free_sampler(sampler: SamplerHandle) -> None:
    c.llama_sampler_free(sampler)


def suppressed_tokens(vocab: VocabHandle) -> tuple[int, ...]:
    """Return the tokens that the model's file says are never sampled (tokenizer.ggml.suppress_tokens)."""
    count = ctypes.c_int32()
    tokens = c.llama_vocab_get_suppress_tokens(vocab, ctypes.byref(count))
    return tuple(tokens[: count.value]) if count.value else ()

"""Build llama.cpp's sampler chain for one answer and choose its tokens with it. The chain runs in C.

The order of the chain and the meaning of every parameter are those of llama.cpp's common/sampling.cpp,
`common_sampler_init`, but links that would change nothing are left out. Knows no text and no request.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from edgeapp.engine import bindings
from edgeapp.engine.sampling_limits import BAN_BIAS, check_sampling
from edgeapp.errors import EngineError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgeapp.engine.bindings import ContextHandle, SamplerHandle, VocabHandle
    from edgeapp.engine.constraint import Constraint
    from edgeapp.protocol import Sampling

_NEVER = float("-inf")
MIN_TEMP = 1e-6  # below it logits / temperature leaves float32, and greedy is what is meant
_LEAST_DYNAMIC_TEMP = 1e-3
"""As good as greedy. Nearer to 0 the logits become infinite, and llama.cpp then draws the last candidate."""
_RANDOM_SEED = 0xFFFFFFFF  # llama.h, LLAMA_DEFAULT_SEED: not a seed, but "draw one"
_POSSIBLE = 1e-30
"""Relative to the best; what float32 can still take the logarithm of after it has been normalised."""


class Sampler:
    """Chooses the tokens of one answer, one after the other. Holds C memory until `free`."""

    constraint: Constraint | None = None
    """What the next tokens must obey; it wins over every other setting."""

    def __init__(
        self,
        settings: Sampling,
        *,
        vocab: VocabHandle,
        n_vocab: int,
        n_ctx_train: int,
        banned: Sequence[int] = (),
        prompt: Sequence[int] = (),
        keep_logits: bool = False,
    ) -> None:
        """Raise `UsageError` for values that cannot be meant.

        `banned` never appear. `prompt` is what the penalties already see. `n_ctx_train` is the longest
        window of the penalties. `keep_logits` puts a row back as the model computed it after `constraint`
        has masked it.
        """
        check_sampling(settings, n_vocab=n_vocab)
        biases = _biases(settings, banned=(*banned, *bindings.suppressed_tokens(vocab)), n_vocab=n_vocab)
        self._n_vocab = n_vocab
        self._keep_logits = keep_logits
        penalties_window = _window(settings.penalty_last_n, n_ctx_train) if _has_penalties(settings) else 0
        dry_window = _window(settings.dry_penalty_last_n, n_ctx_train) if _has_dry(settings) else 0
        links = [bindings.sampler_logit_bias(n_vocab, biases)] if biases else []
        if penalties_window:
            links.append(_penalties(settings, n_vocab, penalties_window))
        if dry_window:
            links.append(_dry(settings, vocab, dry_window))
        self._chain = bindings.sampler_chain([*links, *_choosing(settings, n_vocab)])
        self._remember(prompt, max(penalties_window, dry_window))

    def _remember(self, prompt: Sequence[int], window: int) -> None:
        """Let the penalties see the prompt, as llama-server does; what the window has left is not told."""
        for token in prompt[-window:] if window else ():
            bindings.accept(self._chain, token)

    def choose(self, context: ContextHandle, row: int) -> int:
        """Return a token for the logits of batch index `row`, and remember it.

        Raise `EngineError` when the constraint allows none.
        """
        if self.constraint is None:
            return bindings.sample(self._chain, context, row)
        return self._choose_allowed(self.constraint, context, row)

    def _choose_allowed(self, constraint: Constraint, context: ContextHandle, row: int) -> int:
        logits = bindings.logits_row(context, row, self._n_vocab)
        computed = bytes(logits) if self._keep_logits else None
        constraint.mask(context, row)
        token = bindings.sample(self._chain, context, row)
        if logits[token] == _NEVER:
            # Bans or penalties have left nothing of what the constraint allows.
            token = _likeliest(context, row)
        is_allowed = logits[token] != _NEVER
        if computed is not None:
            logits.cast("B")[:] = computed
        if not is_allowed:
            raise EngineError("The grammar allows no token of this model's vocabulary to follow.")
        constraint.accept(token)
        return token

    def free(self) -> None:
        bindings.free_sampler(self._chain)


# Links ---------------------------------------------------------------------------------------------------


def _biases(settings: Sampling, *, banned: Sequence[int], n_vocab: int) -> list[tuple[int, float]]:
    biases = [(bias.token, bias.bias if bias.bias > BAN_BIAS else _NEVER) for bias in settings.logit_bias]
    biases += [(token, _NEVER) for token in banned]
    if len({token for token, bias in biases if bias == _NEVER}) >= n_vocab:
        raise UsageError(f"logit_bias bans all {n_vocab} tokens of the vocabulary.")
    return biases


def _has_penalties(settings: Sampling) -> bool:
    return (settings.repeat_penalty, settings.frequency_penalty, settings.presence_penalty) != (1, 0, 0)


def _has_dry(settings: Sampling) -> bool:
    return settings.dry_multiplier > 0


def _window(last_n: int, n_ctx: int) -> int:
    """llama.cpp reserves memory for the whole window, and knows no -1."""
    return n_ctx if last_n < 0 else min(last_n, n_ctx)


def _penalties(settings: Sampling, n_vocab: int, window: int) -> SamplerHandle:
    return bindings.sampler_penalties(
        n_vocab,
        last_n=window,
        repeat=settings.repeat_penalty,
        frequency=settings.frequency_penalty,
        presence=settings.presence_penalty,
    )


def _dry(settings: Sampling, vocab: VocabHandle, window: int) -> SamplerHandle:
    return bindings.sampler_dry(
        vocab,
        multiplier=settings.dry_multiplier,
        base=settings.dry_base,
        allowed_length=settings.dry_allowed_length,
        last_n=window,
        breakers=[breaker.encode("utf-8", "replace") for breaker in settings.dry_sequence_breakers],
    )


def _choosing(settings: Sampling, n_vocab: int) -> list[SamplerHandle]:
    """Return the links behind the penalties, the last of which chooses a token."""
    if settings.temp < MIN_TEMP:
        return [bindings.sampler_greedy()]
    seed = secrets.randbits(32) if settings.seed is None else settings.seed
    seed = min(seed, _RANDOM_SEED - 1)
    if settings.mirostat:
        return _mirostat(settings, n_vocab, seed)
    return [*_filters(settings, n_vocab, seed), *_temperature(settings), bindings.sampler_dist(seed)]


def _mirostat(settings: Sampling, n_vocab: int, seed: int) -> list[SamplerHandle]:
    tau, eta = settings.mirostat_tau, settings.mirostat_eta
    temperature = bindings.sampler_temp(settings.temp)
    if settings.mirostat == 2:  # noqa: PLR2004 - a version
        return [temperature, bindings.sampler_mirostat_2(seed=seed, tau=tau, eta=eta)]
    return [temperature, _only_possible(), bindings.sampler_mirostat(n_vocab, seed=seed, tau=tau, eta=eta)]


def _filters(settings: Sampling, n_vocab: int, seed: int) -> Iterator[SamplerHandle]:
    if settings.top_n_sigma > 0:
        yield bindings.sampler_top_n_sigma(settings.top_n_sigma)
    if 0 < settings.top_k < n_vocab:
        yield bindings.sampler_top_k(settings.top_k)
    if settings.typical_p < 1:
        yield _only_possible()
        yield bindings.sampler_typical(settings.typical_p)
    if settings.top_p < 1:
        yield bindings.sampler_top_p(settings.top_p)
    if settings.min_p > 0:
        yield bindings.sampler_min_p(settings.min_p)
    if settings.xtc_probability > 0:
        yield bindings.sampler_xtc(
            probability=settings.xtc_probability, threshold=settings.xtc_threshold, seed=seed
        )


def _only_possible() -> SamplerHandle:
    """Drop forbidden tokens: from their log(0) llama.cpp would compute an entropy or a slope that is NaN."""
    return bindings.sampler_min_p(_POSSIBLE)


def _temperature(settings: Sampling) -> Iterator[SamplerHandle]:
    if settings.dynatemp_range > 0:
        low = max(_LEAST_DYNAMIC_TEMP, settings.temp - settings.dynatemp_range)
        high = max(low, settings.temp + settings.dynatemp_range)
        yield bindings.sampler_dynamic_temp(
            (low + high) / 2, spread=(high - low) / 2, exponent=settings.dynatemp_exponent
        )
    elif settings.temp != 1:
        yield bindings.sampler_temp(settings.temp)


def _likeliest(context: ContextHandle, row: int) -> int:
    greedy = bindings.sampler_chain([bindings.sampler_greedy()])
    try:
        return bindings.sample(greedy, context, row)
    finally:
        bindings.free_sampler(greedy)

"""What llama.cpp's samplers compute, written a second time, from their papers and plainly, in float64."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

    from edgeapp.protocol import Sampling

Logits = dict[int, float]
"""Of the tokens that are still candidates, which a token with a logit of minus infinity may be."""


def distribution(
    settings: Sampling,
    logits: NDArray[np.floating],
    *,
    history: Sequence[int] = (),
    breakers: Collection[int] = (),
) -> dict[int, float]:
    """Return each possible token's probability. `history` has all tokens before; XTC strikes always."""
    found = {token: float(value) for token, value in enumerate(logits)}
    for bias in settings.logit_bias:
        found[bias.token] += bias.bias if bias.bias > -100 else -np.inf
    penalize(settings, found, history)
    punish_repetition(settings, found, history, breakers)
    if settings.temp == 0:
        best = max(found, key=lambda token: found[token])
        return {best: 1.0}
    found = _filtered(settings, found)
    return softmax({token: value / temperature(settings, found) for token, value in found.items()})


def softmax(logits: Logits) -> dict[int, float]:
    best = max(logits.values())
    weights = {token: math.exp(value - best) for token, value in logits.items()}
    total = sum(weights.values())
    return {token: weight / total for token, weight in weights.items()}


def penalize(settings: Sampling, logits: Logits, history: Sequence[int]) -> None:
    n = settings.penalty_last_n
    counts = Counter(history if n < 0 else history[-n:] if n else ())
    for token, count in counts.items():
        factor = settings.repeat_penalty
        logits[token] = logits[token] / factor if logits[token] > 0 else logits[token] * factor
        logits[token] -= count * settings.frequency_penalty + settings.presence_penalty


def punish_repetition(
    settings: Sampling, logits: Logits, history: Sequence[int], breakers: Collection[int]
) -> None:
    """DRY: what would make the last L tokens appear again costs multiplier * base ** (L - allowed)."""
    n = settings.dry_penalty_last_n
    recent = list(history if n < 0 else history[-n:] if n else ())
    backwards = enumerate(reversed(recent))
    since_breaker = next((back for back, token in backwards if token in breakers), len(recent))
    repeated: dict[int, int] = {}
    for at, token in enumerate(recent[1:], start=1):
        length = min(_common_end(recent[:at], recent), since_breaker)
        repeated[token] = max(length, repeated.get(token, 0))
    for token, length in repeated.items():
        over = length - settings.dry_allowed_length
        if over >= 0 and token not in breakers:
            logits[token] -= settings.dry_multiplier * settings.dry_base**over


def _common_end(one: Sequence[int], other: Sequence[int]) -> int:
    length = 0
    while length < min(len(one), len(other)) and one[-1 - length] == other[-1 - length]:
        length += 1
    return length


def _filtered(settings: Sampling, logits: Logits) -> Logits:
    logits = top_n_sigma(logits, settings.top_n_sigma)
    logits = top_k(logits, settings.top_k)
    logits = typical(logits, settings.typical_p)
    logits = top_p(logits, settings.top_p)
    logits = min_p(logits, settings.min_p)
    return xtc(logits, settings.xtc_threshold) if settings.xtc_probability > 0 else logits


def _best_first(logits: Logits) -> list[int]:
    return sorted(logits, key=lambda token: -logits[token])


def top_n_sigma(logits: Logits, n: float) -> Logits:
    if n <= 0:
        return logits
    least = max(logits.values()) - n * float(np.std([value for value in logits.values() if value > -np.inf]))
    return {token: value if value >= least else -np.inf for token, value in logits.items()}


def top_k(logits: Logits, k: int) -> Logits:
    return {token: logits[token] for token in _best_first(logits)[: k if k > 0 else None]}


def _until(order: Sequence[int], probabilities: dict[int, float], total: float) -> list[int]:
    """Return the shortest beginning of `order` that has at least `total`."""
    cumulated = np.cumsum([probabilities[token] for token in order])
    return list(order[: int(np.searchsorted(cumulated, total)) + 1])


def top_p(logits: Logits, p: float) -> Logits:
    if p >= 1:
        return logits
    return {token: logits[token] for token in _until(_best_first(logits), softmax(logits), p)}


def typical(logits: Logits, p: float) -> Logits:
    if p >= 1:
        return logits
    logits = min_p(logits, 1e-30)  # what is impossible has no surprise
    probabilities = softmax(logits)
    surprise = {token: -math.log(p) for token, p in probabilities.items()}
    entropy = sum(p * surprise[token] for token, p in probabilities.items())
    order = sorted(logits, key=lambda token: abs(surprise[token] - entropy))
    return {token: logits[token] for token in _until(order, probabilities, p)}


def min_p(logits: Logits, p: float) -> Logits:
    if p <= 0:
        return logits
    probabilities = softmax(logits)
    best = max(probabilities.values())
    return {token: logits[token] for token, found in probabilities.items() if found >= p * best}


def xtc(logits: Logits, threshold: float) -> Logits:
    if threshold > 0.5:
        return logits
    probabilities = softmax(logits)
    above = [token for token in _best_first(logits) if probabilities[token] >= threshold]
    return {token: value for token, value in logits.items() if token not in above[:-1]}


def temperature(settings: Sampling, logits: Logits) -> float:
    """Return the temperature, moved by the entropy of what is left as far as `dynatemp_range` allows."""
    spread = settings.dynatemp_range
    if spread <= 0 or len(logits) == 1:
        return settings.temp
    probabilities = np.array(list(softmax(logits).values()))
    probabilities = probabilities[probabilities > 0]
    entropy = float(-(probabilities * np.log(probabilities)).sum() / np.log(len(logits)))
    low, high = max(1e-3, settings.temp - spread), settings.temp + spread
    return float(low + (high - low) * entropy**settings.dynatemp_exponent)


def mirostat_k(probabilities: Sequence[float], *, n_vocab: int, mu: float, m: int = 100) -> int:
    """Return how many of the likeliest tokens Mirostat 1 keeps (arXiv:2007.14966, algorithm 1)."""
    best = np.array(probabilities[:m])
    steps = np.arange(1, len(best))
    t = np.log((steps + 1) / steps)
    b = np.log(best[:-1] / best[1:])
    s = float((t * b).sum() / (t * t).sum())
    epsilon = s - 1
    return max(1, int((epsilon * 2**mu / (1 - n_vocab**-epsilon)) ** (1 / s)))

"""From logits to numbers about a quantised model, with their uncertainty. Pure arithmetic in float64.

KL divergence, perplexity, same top token and Δp are defined as in llama.cpp's tools/perplexity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_Z_95 = 1.959964  # two-sided 95 % point of the normal distribution
_BLOCK_FLOATS = 1 << 19  # logits that are worked on at once: a few arrays of 4 MB
_N_RESAMPLES = 10_000
_SEED = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenLosses:
    """One number per scored token. `kld` is KL(base ‖ quant), `nll_*` −ln p of the token that came next."""

    kld: NDArray[np.float64]
    nll_base: NDArray[np.float64]
    nll_quant: NDArray[np.float64]
    same_top: NDArray[np.bool_]


def token_losses(
    base: NDArray[np.float32], quant: NDArray[np.float32], targets: Sequence[int]
) -> TokenLosses:
    """Compare logits [n_rows, n_vocab] of two models at the same tokens; `targets` are what came next."""
    step = max(1, _BLOCK_FLOATS // base.shape[1])
    blocks = [
        _block_losses(
            np.asarray(base[start : start + step], dtype=np.float64),
            np.asarray(quant[start : start + step], dtype=np.float64),
            np.asarray(targets[start : start + step]),
        )
        for start in range(0, len(base), step)
    ]
    return joined(blocks)


def joined(losses: Sequence[TokenLosses]) -> TokenLosses:
    """Return the losses one after the other."""
    return TokenLosses(
        kld=np.concatenate([part.kld for part in losses]),
        nll_base=np.concatenate([part.nll_base for part in losses]),
        nll_quant=np.concatenate([part.nll_quant for part in losses]),
        same_top=np.concatenate([part.same_top for part in losses]),
    )


def _block_losses(
    base: NDArray[np.float64], quant: NDArray[np.float64], targets: NDArray[np.int64]
) -> TokenLosses:
    same_top = base.argmax(axis=1) == quant.argmax(axis=1)
    log_base, log_quant = log_softmax(base), log_softmax(quant)
    rows = np.arange(len(targets))
    p_base = np.exp(log_base)
    with np.errstate(invalid="ignore"):  # a masked token: probability 0, logarithm −∞
        terms = np.where(p_base > 0, p_base * (log_base - log_quant), 0.0)
    return TokenLosses(
        # Rounding can bring a sum that should be 0 below it.
        kld=np.maximum(terms.sum(axis=1), 0.0),
        nll_base=-log_base[rows, targets],
        nll_quant=-log_quant[rows, targets],
        same_top=same_top,
    )


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ln p along the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    normalised: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return normalised


def rms_delta_p(losses: TokenLosses) -> float:
    """Return the root mean square of how much the next token's probability changed."""
    return float(np.sqrt(np.mean((np.exp(-losses.nll_quant) - np.exp(-losses.nll_base)) ** 2)))


def proportion_interval(hits: NDArray[np.bool_], *, cluster_length: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of the share of `hits`, which come in clusters, one after the other.

    Tokens of one chunk resemble each other. The number of hits is divided by the design effect, the variance
    of the cluster means over what independent tokens would have (Kish 1965; never below 1).
    """
    n = len(hits)
    share = float(hits.mean())
    n_effective = n / _design_effect(hits, cluster_length)
    centre = share + _Z_95**2 / (2 * n_effective)
    half = _Z_95 * math.sqrt(share * (1 - share) / n_effective + _Z_95**2 / (4 * n_effective**2))
    scale = 1 + _Z_95**2 / n_effective
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def _design_effect(hits: NDArray[np.bool_], cluster_length: int) -> float:
    means = hits[: len(hits) // cluster_length * cluster_length].reshape(-1, cluster_length).mean(axis=1)
    independent = hits.mean() * (1 - hits.mean()) / cluster_length
    if len(means) < 2 or independent == 0:  # noqa: PLR2004 - a variance needs two
        return 1.0
    return max(1.0, float(means.var(ddof=1) / independent))


def ratio_interval(part: NDArray[np.bool_], whole: NDArray[np.bool_]) -> tuple[float, float] | None:
    """Return the 95 % interval of sum(part) / sum(whole) over the same items; None when `whole` is all 0.

    Paired bootstrap: items are drawn with replacement, both answers to an item together; the seed is fixed.
    """
    n = len(whole)
    random = np.random.default_rng(_SEED)
    step = max(1, _BLOCK_FLOATS // n)
    sums: list[NDArray[np.int64]] = []
    for start in range(0, _N_RESAMPLES, step):
        drawn = random.multinomial(n, np.full(n, 1 / n), size=min(step, _N_RESAMPLES - start))
        sums.append(drawn @ np.stack([part, whole], axis=1))
    parts, wholes = np.concatenate(sums).T
    if not wholes.any():
        return None
    ratios = parts[wholes > 0] / wholes[wholes > 0]
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)

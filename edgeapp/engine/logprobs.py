"""Log probabilities of a token and its likeliest rivals, from the logits as the model computed them.

As OpenAI and llama-server report them: before any sampler, for temperature 1. Knows no request and no
sampler; numpy is imported by this module's importers alone, because it takes a tenth of a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeapp.engine import bindings
from edgeapp.protocol import TokenLogprob

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeapp.engine.bindings import ContextHandle
    from edgeapp.engine.model import Vocab

MIN_LOGPROB = -9999.0
"""Stands for impossible, which JSON has no number for (OpenAI API reference, chat completions, logprobs)."""


def token_logprobs(context: ContextHandle, row: int, token: int, *, n_top: int, vocab: Vocab) -> TokenLogprob:
    """Return the log probability of `token` at batch index `row`, with the `n_top` likeliest tokens.

    The row must be as the model computed it: a constraint's mask would change every probability.
    """
    logits = np.frombuffer(bindings.logits_row(context, row, vocab.facts.n_tokens), dtype=np.float32)
    log_total = _log_sum_exp(logits)

    def entry(index: int, *, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        logprob = float(logits[index]) - log_total
        return TokenLogprob(
            token=index,
            data=vocab.piece(index),
            logprob=max(MIN_LOGPROB, logprob),  # in this order a NaN too
            top=top,
        )

    return entry(token, top=tuple(entry(index) for index in _likeliest(logits, n_top)))


def _log_sum_exp(logits: NDArray[np.float32]) -> float:
    best = logits.max()
    return float(best) + float(np.log(np.exp(logits - best).sum(dtype=np.float64)))


def _likeliest(logits: NDArray[np.float32], count: int) -> list[int]:
    """Return the indices of the `count` greatest, best first, the lower index first among equals."""
    count = min(count, len(logits))
    if count <= 0:
        return []
    least = np.partition(logits, len(logits) - count)[len(logits) - count]
    candidates = np.flatnonzero(logits >= least)
    order = np.lexsort((candidates, -logits[candidates]))
    return [int(index) for index in candidates[order][:count]]

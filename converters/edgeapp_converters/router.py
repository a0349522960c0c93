"""Fit routers for experts that are copies of one FFN, so that like tokens go to the same experts.

A router scores each expert by the product of a row of its matrix with the FFN's input. All inputs share a
large mean, and Mixtral's router has no bias that could subtract it; so the rows are kept orthogonal to the
mean's direction, and what decides is how a token differs from the average one.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeapp.runtime import measuring
from edgeapp_converters.collect import keep_inputs
from edgeapp_converters.events import StageProgress, Warned
from edgeapp_converters.kmeans import cosine_centres, products, unit_rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

    from edgeapp_converters.events import Report

SMALLEST_SHARE = 0.05
"""Of all tokens: an expert that serves fewer is hardly part of the model."""
_SEED = 20_251_124
_RESTARTS = 6
_BALANCED = 0.6
"""Of an equal share: when every expert gets that much, no other run of k-means is tried."""
_LOGIT_SPREAD = 8.0
"""Logit of a typical token that lies exactly in its expert's direction: clear choices, yet no sole ruler."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerRouter:
    """A router's matrix [n_expert, d], and the share of the fitted tokens that uses each expert."""

    weights: npt.NDArray[np.float32]
    shares: npt.NDArray[np.float64]


def fit_layer(
    inputs: npt.NDArray[np.float32], n_expert: int, n_expert_used: int, *, seed: int
) -> LayerRouter:
    """Fit a router to FFN inputs [n_tokens, d]: the first k-means run that is balanced, or the best.

    The same input and seed give the same router.
    """
    random = np.random.default_rng([_SEED, seed])
    mean = unit_rows(inputs.mean(axis=0, keepdims=True))
    deviations = inputs - np.einsum("ij,j->i", inputs, mean[0])[:, None] * mean
    scale = np.float32(_LOGIT_SPREAD / np.median(np.linalg.norm(inputs, axis=1)))
    enough = _BALANCED * n_expert_used / n_expert
    fitted: list[LayerRouter] = []
    while len(fitted) < _RESTARTS and not any(router.shares.min() >= enough for router in fitted):
        centres = cosine_centres(deviations, n_expert, random)
        weights = centres * scale  # orthogonal to the mean, like the deviations that they are means of
        fitted.append(LayerRouter(weights=weights, shares=expert_shares(weights, inputs, n_expert_used)))
    return max(fitted, key=lambda router: float(router.shares.min()))


def expert_shares(
    weights: npt.NDArray[np.float32], inputs: npt.NDArray[np.float32], n_expert_used: int
) -> npt.NDArray[np.float64]:
    """Return for each expert the share of tokens that it serves; together they are `n_expert_used`."""
    scores = products(inputs, weights)
    chosen = np.argsort(-scores, axis=1, kind="stable")[:, :n_expert_used]
    return np.bincount(chosen.reshape(-1), minlength=len(weights)) / len(inputs)


def fit_router(
    dense: Path,
    text: str,
    *,
    n_layer: int,
    n_embd: int,
    n_expert: int,
    n_expert_used: int,
    max_tokens: int,
    report: Report,
) -> npt.NDArray[np.float32]:
    """Return routers [n_layer, n_expert, n_embd] fitted to what the dense model computes over `text`.

    A `Warned` event tells when experts get less than `SMALLEST_SHARE` of the tokens. Raise `EdgeappError`.
    """
    names = [f"blk.{layer}.ffn_gate.weight" for layer in range(n_layer)]
    n_bytes = n_layer * max_tokens * n_embd * np.dtype(np.float16).itemsize
    with measuring.private_folder(n_bytes) as folder:
        n_tokens = asyncio.run(keep_inputs(dense, text, names, folder, max_tokens=max_tokens, report=report))
        inputs = (measuring.kept_inputs(folder, layer, n_tokens=n_tokens) for layer in range(n_layer))
        routers = list(_fit_layers(inputs, n_layer, n_expert, n_expert_used, report=report))
    _warn_of_idle_experts(routers, report)
    return np.stack([router.weights for router in routers])


def _fit_layers(
    inputs: Iterator[npt.NDArray[np.float16]],
    n_layer: int,
    n_expert: int,
    n_expert_used: int,
    *,
    report: Report,
) -> Iterator[LayerRouter]:
    for layer, rows in enumerate(inputs):
        yield fit_layer(rows.astype(np.float32), n_expert, n_expert_used, seed=layer)
        report(StageProgress(stage="upcycling", done=layer + 1, total=n_layer, unit="steps", label="routers"))


def _warn_of_idle_experts(routers: list[LayerRouter], report: Report) -> None:
    shares = np.concatenate([router.shares for router in routers])
    n_idle = int((shares < SMALLEST_SHARE).sum())
    if n_idle:
        report(
            Warned(
                message=f"{n_idle} of {len(shares)} experts serve less than "
                f"{SMALLEST_SHARE:.0%} of the tokens that the routers were fitted to.",
                hint="The model computes the same; a more varied text spreads the work better.",
            )
        )

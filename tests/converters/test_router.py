"""Routers send like tokens to the same experts, use all experts, and are the same every time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgeapp_converters.events import Warned
from edgeapp_converters.kmeans import cosine_centres, products, unit_rows
from edgeapp_converters.router import LayerRouter, _warn_of_idle_experts, expert_shares, fit_layer, fit_router
from tests.converters.tiny_dense import GEOMETRY, N_LAYER, write_tiny_dense

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from edgeapp_converters.events import ConversionEvent


def four_kinds(
    *, n_tokens: int = 400, d: int = 32, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Return FFN inputs of four kinds around a large common mean, and the kind of each."""
    random = np.random.default_rng(seed)
    kinds = np.arange(n_tokens) % 4
    directions = np.linalg.qr(random.standard_normal((d, 5)))[0].T
    noise = random.standard_normal((n_tokens, d)) * 0.1
    mean = random.uniform(0.5, 9.5, (n_tokens, 1)) * directions[4]
    inputs = mean + directions[kinds] * random.uniform(0.5, 2.0, (n_tokens, 1)) + noise
    return inputs.astype(np.float32), kinds


def test_each_kind_of_token_gets_an_expert_of_its_own() -> None:
    inputs, kinds = four_kinds()
    weights = fit_layer(inputs, 4, 2, seed=0).weights
    chosen = products(inputs, weights).argmax(axis=1)
    assert len({(kind, expert) for kind, expert in zip(kinds.tolist(), chosen.tolist(), strict=True)}) == 4


def test_the_common_mean_does_not_decide() -> None:
    inputs, _ = four_kinds()
    weights = fit_layer(inputs, 4, 2, seed=0).weights
    mean = inputs.mean(axis=0)
    assert np.abs(weights @ mean).max() < 1e-3


def test_the_same_inputs_give_the_same_router() -> None:
    inputs, _ = four_kinds()
    first, second = (fit_layer(inputs, 4, 2, seed=3) for _ in range(2))
    assert first.weights.tobytes() == second.weights.tobytes()


def test_shares_count_every_token_once_for_each_expert_it_uses() -> None:
    weights = np.eye(4, dtype=np.float32)
    inputs = np.array([[4, 3, 2, 1], [4, 3, 1, 2], [4, 1, 2, 3], [1, 2, 3, 4]], dtype=np.float32)
    assert expert_shares(weights, inputs, 2).tolist() == [0.75, 0.5, 0.25, 0.5]


def test_identical_vectors_are_no_reason_to_fail() -> None:
    rows = np.ones((10, 8), dtype=np.float32)
    centres = cosine_centres(rows, 4, np.random.default_rng(0))
    assert np.isfinite(centres).all()
    assert np.isfinite(fit_layer(rows, 4, 2, seed=0).weights).all()


def test_products_do_not_depend_on_how_rows_are_cut() -> None:
    random = np.random.default_rng(0)
    rows, others = (random.standard_normal((n, 48), dtype=np.float32) for n in (130, 4))
    assert np.allclose(products(rows, others), rows @ others.T, atol=1e-5)
    assert np.allclose(np.linalg.norm(unit_rows(rows), axis=1), 1, atol=1e-6)


def test_routers_are_fitted_to_what_the_model_computes(tmp_path: Path) -> None:
    dense = write_tiny_dense(tmp_path / "dense.gguf")
    events: list[ConversionEvent] = []
    text = " ".join(
        f"{n} ships and {n * 7} gulls, said the {'keeper' if n % 2 else 'boy'}." for n in range(200)
    )
    router = fit_router(
        dense,
        text,
        n_layer=N_LAYER,
        n_embd=GEOMETRY.n_embd,
        n_expert=4,
        n_expert_used=2,
        max_tokens=1024,
        report=events.append,
    )
    assert router.shape == (N_LAYER, 4, GEOMETRY.n_embd)
    assert router.std() > 0
    assert not any(isinstance(event, Warned) for event in events)


@pytest.mark.parametrize(("share", "n_warnings"), [(0.04, 1), (0.06, 0)])
def test_an_idle_expert_is_told(share: float, n_warnings: int) -> None:
    events: list[ConversionEvent] = []
    shares = np.array([share, 0.9, 0.5, 0.5])
    _warn_of_idle_experts([LayerRouter(weights=np.zeros((4, 8), np.float32), shares=shares)], events.append)
    assert len(events) == n_warnings

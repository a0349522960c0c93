"""The sums of squares against the plain loops of llama.cpp's imatrix.cpp, and the layout of tensors."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgeapp.engine import tensors
from edgeapp.engine.collector import _dense_squares, _expert_squares
from edgeapp.errors import BindingMismatch

if TYPE_CHECKING:
    from numpy.typing import NDArray


def noise(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("inputs", "weight"),
    [((1, 1, 20, 8), (1, 1)), ((1, 4, 20, 8), (1, 4)), ((2, 6, 20, 8), (1, 3)), ((1, 4, 20, 8), (1, 1))],
)
def test_dense_sums_are_those_of_plain_loops(
    inputs: tuple[int, int, int, int], weight: tuple[int, int]
) -> None:
    x, (w3, w2) = noise(*inputs), weight
    expected = np.zeros((w3 * w2, inputs[3]))
    for i3 in range(inputs[0]):
        for i2 in range(inputs[1]):
            for row in x[i3, i2]:
                expected[(i3 % w3) * w2 + i2 % w2] += row.astype(np.float64) ** 2
    squares, counts = _dense_squares(x, shape=weight)
    np.testing.assert_allclose(squares, expected, rtol=1e-12)
    assert counts.tolist() == [inputs[0] * inputs[1] * inputs[2] // (w3 * w2)]


@pytest.mark.parametrize("rows_per_token", [1, 3])
def test_expert_sums_are_those_of_plain_loops(rows_per_token: int) -> None:
    x, n_expert = noise(20, rows_per_token, 8), 5
    ids = np.array([np.random.default_rng(token).permutation(4)[:3] for token in range(20)], dtype=np.int32)
    squares, counts = np.zeros((n_expert, 8)), np.zeros(n_expert)
    for token in range(20):
        for slot, expert in enumerate(ids[token]):
            squares[expert] += x[token, slot % rows_per_token].astype(np.float64) ** 2
            counts[expert] += 1
    found, found_counts = _expert_squares(x, ids, n_expert=n_expert)
    np.testing.assert_allclose(found, squares, rtol=1e-5)
    assert found_counts.tolist() == counts.tolist()
    assert counts[4] == 0


def test_inputs_that_fit_no_routing_are_refused() -> None:
    with pytest.raises(ValueError, match="2 rows for 3 experts"):
        _expert_squares(noise(20, 2, 8), np.zeros((20, 3), dtype=np.int32), n_expert=5)


def test_the_layout_of_tensors_is_the_engines() -> None:
    tensors.check_layout()


def test_another_layout_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shifted(tensors.Tensor):
        _fields_ = [("more", ctypes.c_int64)]  # noqa: RUF012 - ctypes reads it as it is

    monkeypatch.setattr(tensors, "Tensor", Shifted)
    with pytest.raises(BindingMismatch, match="another layout"):
        tensors.check_layout()

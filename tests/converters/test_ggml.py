"""libggml through ctypes: numbers, bytes and the requests that would end the process."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from edgeapp.errors import ConversionFailed
from edgeapp_converters import ggml

if TYPE_CHECKING:
    import numpy.typing as npt

Q = GGMLQuantizationType
_RELATIVE_RMSE = {
    Q.F16: 0.0003,
    Q.BF16: 0.003,
    Q.Q8_0: 0.01,
    Q.Q6_K: 0.025,
    Q.Q5_K: 0.05,
    Q.Q4_K: 0.09,
    Q.IQ4_XS: 0.1,
    Q.MXFP4: 0.15,
    Q.Q3_K: 0.2,
}


def _gaussian(n_rows: int = 8, columns: int = 512) -> npt.NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((n_rows, columns), dtype=np.float32)


def _quantized(
    kind: GGMLQuantizationType,
    rows: npt.NDArray[np.float32],
    importance: npt.NDArray[np.float32] | None = None,
) -> npt.NDArray[np.uint8]:
    into = np.empty(4 * rows.size, np.uint8)
    return into[: ggml.quantize(kind, rows, into, importance)]


@pytest.mark.parametrize("kind", _RELATIVE_RMSE)
def test_what_is_quantized_reads_back_within_the_error_of_its_type(kind: GGMLQuantizationType) -> None:
    rows = _gaussian()
    read_back = quants.dequantize(_quantized(kind, rows).reshape(len(rows), -1), kind)
    error = np.sqrt(np.mean((read_back - rows) ** 2) / np.mean(rows**2))
    assert error < _RELATIVE_RMSE[kind]


@pytest.mark.parametrize("kind", [Q.F32, Q.F16, Q.BF16, Q.Q8_0, Q.Q4_0, Q.Q4_K, Q.MXFP4])
def test_widening_agrees_with_ggufs_own_reader(kind: GGMLQuantizationType) -> None:
    rows = _gaussian()
    encoded = _quantized(kind, rows)
    widened = np.empty(rows.shape, np.float32)
    ggml.widen(kind, encoded, widened)
    expected = quants.dequantize(encoded.reshape(len(rows), -1), kind)
    np.testing.assert_allclose(widened, expected, rtol=1e-6, atol=0)


def test_bf16_is_rounded_to_the_nearest_even() -> None:
    half_way_down, half_way_up, above = 0x3F808000, 0x3F818000, 0x3F808001
    rows = np.array([[half_way_down, half_way_up, above]], np.uint32).view(np.float32)
    assert _quantized(Q.BF16, rows).view(np.uint16).tolist() == [0x3F80, 0x3F82, 0x3F81]


def test_important_columns_get_the_smaller_error() -> None:
    rows = _gaussian(64)
    importance = np.where(np.arange(512) % 4 == 0, 100, 1).astype(np.float32)
    weighed, plain = np.empty_like(rows), np.empty_like(rows)
    ggml.widen(Q.Q4_K, _quantized(Q.Q4_K, rows, importance), weighed)
    ggml.widen(Q.Q4_K, _quantized(Q.Q4_K, rows), plain)
    important = importance > 1
    assert np.abs(weighed - rows)[:, important].mean() < 0.9 * np.abs(plain - rows)[:, important].mean()


def test_rows_that_are_not_whole_blocks_are_refused() -> None:
    with pytest.raises(ConversionFailed, match=r"row of 576 numbers cannot be Q4_K.*multiple of 256"):
        _quantized(Q.Q4_K, _gaussian(columns=576))


def test_a_type_that_needs_importance_is_refused_without() -> None:
    with pytest.raises(ConversionFailed, match=r"IQ2_XXS.*importance matrix") as refusal:
        _quantized(Q.IQ2_XXS, _gaussian())
    assert "--calibrate" in refusal.value.hint


@pytest.mark.parametrize("value", [np.nan, np.inf, -1])
def test_importance_that_is_no_weight_is_refused(value: float) -> None:
    importance = np.ones(512, np.float32)
    importance[3] = value
    with pytest.raises(ConversionFailed, match="negative or infinite"):
        _quantized(Q.Q4_K, _gaussian(), importance)


def test_importance_of_another_width_is_refused() -> None:
    with pytest.raises(ConversionFailed, match="256 columns where the weights have 512"):
        _quantized(Q.Q4_K, _gaussian(), np.ones(256, np.float32))


@pytest.mark.parametrize("kind", [Q.I32, Q.F64, Q.Q8_K])
def test_types_that_hold_no_weights_are_refused(kind: GGMLQuantizationType) -> None:
    with pytest.raises(ConversionFailed, match="not a type that weights"):
        _quantized(kind, _gaussian())


def test_what_would_abort_the_search_on_a_grid_is_refused() -> None:
    with pytest.raises(ConversionFailed, match="too large for IQ2_XS"):
        _quantized(Q.IQ2_XS, _gaussian(), np.full(512, 3e38, np.float32))


def test_a_buffer_that_is_too_small_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        ggml.quantize(Q.Q8_0, _gaussian(), np.empty(10, np.uint8))


def test_infinite_scales_are_not_valid(capfd: pytest.CaptureFixture[str]) -> None:
    encoded = _quantized(Q.Q8_0, _gaussian()).copy()
    assert ggml.is_valid(Q.Q8_0, encoded)
    encoded[:2].view(np.uint16)[0] = 0x7C00
    assert not ggml.is_valid(Q.Q8_0, encoded)
    assert "found inf" in capfd.readouterr().err


def test_tables_can_be_freed_and_built_again() -> None:
    importance = np.ones(512, np.float32)
    ggml.prepare({Q.IQ3_XXS})
    first = _quantized(Q.IQ3_XXS, _gaussian(1), importance).copy()
    ggml.free()
    assert np.array_equal(_quantized(Q.IQ3_XXS, _gaussian(1), importance), first)


def test_llama_cpp_itself_is_not_loaded() -> None:
    code = (
        "from edgeapp_converters import ggml; import sys; print(ggml.version());"
        "assert not any(name.startswith('llama_cpp') for name in sys.modules);"
        "assert 'libllama' not in open('/proc/self/maps').read()"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip()

"""Every way in which a plan can take rows from a source, against the same thing said in numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeapp.errors import InvalidCheckpoint, UnsupportedCheckpoint
from edgeapp_converters import dtypes, ggml
from edgeapp_converters.encode import encode_rows
from edgeapp_converters.plan import ElementMap, Encoding, Part
from edgeapp_converters.rows import read_rows
from edgeapp_converters.scratch import Scratch
from tests.converters.raw_source import RawSource, bf16, typed, widened

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

Q = GGMLQuantizationType


@pytest.fixture
def source(tmp_path: Path) -> Iterator[RawSource]:
    made = RawSource(tmp_path)
    yield made
    made.close()


def _rows(
    source: RawSource, part: Part, columns: int, first: int = 0, n: int | None = None
) -> npt.NDArray[np.float32]:
    source.fetch("only")
    n = part.n_rows - first if n is None else n
    out = np.full((n, columns), np.nan, np.float32)
    largest = read_rows(source, part, first, n, columns, out)
    assert largest == np.abs(out).max(initial=0)
    return out


def _encoded(source: RawSource, part: Part, kind: GGMLQuantizationType, columns: int) -> bytes:
    source.fetch("only")
    tensor = typed("blk.0.x.weight", (part.n_rows, columns), kind, part)
    return encode_rows(source, tensor, part, 0, part.n_rows, None, Scratch()).tobytes()


def _gaussian(*shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(2).standard_normal(shape, dtype=np.float32)


def test_a_piece_from_the_middle(source: RawSource) -> None:
    data = _gaussian(20, 7)
    source.add("w", data)
    part = Part(source="w", target_row=0, n_rows=15, first_row=5)
    assert np.array_equal(_rows(source, part, 7, first=3, n=4), data[8:12])
    assert source.n_reads == 1


def test_every_second_row_is_fetched_with_one_read(source: RawSource) -> None:
    data = _gaussian(20, 7)
    source.add("w", data)
    part = Part(source="w", target_row=0, n_rows=9, first_row=1, row_step=2)
    assert np.array_equal(_rows(source, part, 7, first=1), data[3:19:2])
    assert source.n_reads == 1


def test_rows_far_apart_are_fetched_run_by_run(source: RawSource) -> None:
    data = _gaussian(400, 7)
    source.add("w", data)
    order = np.array([300, 301, 302, 5, 100, 99])
    part = Part(source="w", target_row=0, n_rows=6, row_order=order)
    assert np.array_equal(_rows(source, part, 7), data[order])
    assert source.n_reads == 4


def test_rotary_heads_are_permuted_with_one_read_for_each_piece(source: RawSource) -> None:
    data = _gaussian(64, 8)
    source.add("w", data)
    order = np.arange(64).reshape(2, 2, 16).swapaxes(1, 2).reshape(-1)
    part = Part(source="w", target_row=0, n_rows=64, row_order=order)
    assert np.array_equal(_rows(source, part, 8, first=32, n=32), data[order][32:])
    assert source.n_reads == 1


def test_columns_in_another_order(source: RawSource) -> None:
    data, order = _gaussian(5, 6), np.array([5, 0, 4, 1, 3, 2])
    source.add("w", data)
    part = Part(source="w", target_row=0, n_rows=5, column_order=order)
    assert np.array_equal(_rows(source, part, 6), data[:, order])


@pytest.mark.parametrize("source_columns", [6, 5000])
def test_transposed_and_every_second_column(source: RawSource, source_columns: int) -> None:
    data = _gaussian(9, source_columns)
    source.add("w", data)
    part = Part(
        source="w",
        target_row=0,
        n_rows=2,
        first_row=1,
        row_step=2,
        transposed=True,
        source_columns=source_columns,
        first_column=3,
    )
    assert np.array_equal(_rows(source, part, 5), data[3:8, 1:5:2].T)


def test_a_large_transposed_matrix_is_read_in_strips(source: RawSource) -> None:
    data = bf16(_gaussian(700, 2000))
    source.add("w", data, dtype="BF16")
    part = Part(source="w", target_row=0, n_rows=2000, transposed=True, source_columns=2000)
    assert np.array_equal(_rows(source, part, 700, first=100, n=800), widened(data)[:, 100:900].T)
    assert np.array_equal(_rows(source, part, 700), widened(data).T)


@settings(deadline=None, max_examples=60)
@given(drawn=st.data())
def test_any_selection_is_what_numpy_selects(
    drawn: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    n_rows, columns = drawn.draw(st.integers(1, 40)), drawn.draw(st.integers(1, 12))
    data = np.arange(n_rows * columns, dtype=np.float32).reshape(n_rows, columns)
    source = RawSource(tmp_path_factory.mktemp("source"))
    source.add("w", data)
    order = np.array(drawn.draw(st.lists(st.integers(0, n_rows - 1), min_size=1, max_size=30)))
    columns_order = np.array(drawn.draw(st.permutations(range(columns))))
    part = Part(source="w", target_row=0, n_rows=len(order), row_order=order, column_order=columns_order)
    first = drawn.draw(st.integers(0, len(order) - 1))
    assert np.array_equal(_rows(source, part, columns, first=first), data[order[first:]][:, columns_order])
    source.close()


# Number formats -------------------------------------------------------------------------------------------


def test_bf16_is_widened_exactly(source: RawSource) -> None:
    codes = bf16(_gaussian(3, 64))
    source.add("w", codes, dtype="BF16")
    assert np.array_equal(_rows(source, Part(source="w", target_row=0, n_rows=3), 64), widened(codes))


def test_every_finite_f16_is_widened_exactly(source: RawSource) -> None:
    codes = np.arange(1 << 16, dtype=np.uint16)
    finite = codes[np.isfinite(codes.view(np.float16))].reshape(2, -1)
    source.add("w", finite, dtype="F16")
    read = _rows(source, Part(source="w", target_row=0, n_rows=2), finite.size // 2)
    assert np.array_equal(read, finite.view(np.float16).astype(np.float32))


def test_f64_is_rounded(source: RawSource) -> None:
    data = np.random.default_rng(0).standard_normal((2, 5))
    source.add("w", data, dtype="F64")
    read = _rows(source, Part(source="w", target_row=0, n_rows=2), 5)
    assert np.array_equal(read, data.astype(np.float32))


def test_e4m3_follows_its_definition() -> None:
    codes = np.array([0x00, 0x01, 0x08, 0x38, 0x7E, 0x80, 0xB8, 0x7F, 0xFF], np.uint8)
    values = np.empty(9, np.float32)
    dtypes.decode("F8_E4M3", codes, values)
    assert values[:7].tolist() == [0, 2**-9, 2**-6, 1, 448, 0, -1]
    assert np.isnan(values[7:]).all()


def test_e5m2_is_the_upper_half_of_f16() -> None:
    codes = np.arange(256, dtype=np.uint8)
    values = np.empty(256, np.float32)
    dtypes.decode("F8_E5M2", codes, values)
    with np.errstate(invalid="ignore"):
        expected = (codes.astype(np.uint16) << 8).view(np.float16).astype(np.float32)
    assert np.array_equal(values, expected, equal_nan=True)


def test_q8_0_rows_are_widened(source: RawSource) -> None:
    encoded = quants.quantize(_gaussian(6, 64), Q.Q8_0)
    source.add("w", encoded, dtype="Q8_0", shape=(6, 64))
    part = Part(source="w", target_row=0, n_rows=3, first_row=1, row_step=2)
    assert np.array_equal(_rows(source, part, 64), quants.dequantize(encoded, Q.Q8_0)[1::2])


def test_integers_are_refused(source: RawSource) -> None:
    source.add("w", np.zeros((2, 2), np.int32), dtype="I32")
    with pytest.raises(UnsupportedCheckpoint, match="stored as I32"):
        _rows(source, Part(source="w", target_row=0, n_rows=2), 2)


# FP8 with scales ------------------------------------------------------------------------------------------


def _fp8(source: RawSource, *shape: int) -> npt.NDArray[np.float32]:
    codes = np.random.default_rng(3).integers(0, 0x7F, shape).astype(np.uint8)
    source.add("w", codes, dtype="F8_E4M3")
    values = np.empty(shape, np.float32)
    dtypes.decode("F8_E4M3", codes, values)
    return values


def _fp8_part(**how: object) -> Part:
    fields = {"source": "w", "target_row": 0, "n_rows": 10, "encoding": Encoding.FP8_BLOCK, "scale": "s"}
    return Part(**(fields | {"scale_block": (4, 8)} | how))  # type: ignore[arg-type] # fields of any kind


def _spread(scales: npt.NDArray[np.float32], *shape: int) -> npt.NDArray[np.float32]:
    return scales.repeat(4, 0).repeat(8, 1)[: shape[0], : shape[1]]


def test_fp8_blocks_that_do_not_divide_the_matrix(source: RawSource) -> None:
    values, scales = _fp8(source, 10, 21), np.abs(_gaussian(3, 3))
    source.add("s", scales)
    assert np.array_equal(_rows(source, _fp8_part(), 21), values * _spread(scales, 10, 21))
    part = _fp8_part(first_row=5, n_rows=4)
    assert np.array_equal(_rows(source, part, 21), (values * _spread(scales, 10, 21))[5:9])


def test_fp8_scales_in_bf16(source: RawSource) -> None:
    values, scales = _fp8(source, 10, 21), bf16(np.abs(_gaussian(3, 3)))
    source.add("s", scales, dtype="BF16")
    assert np.array_equal(_rows(source, _fp8_part(), 21), values * _spread(widened(scales), 10, 21))


def test_fp8_with_rows_in_another_order(source: RawSource) -> None:
    values, scales, order = _fp8(source, 10, 21), np.abs(_gaussian(3, 3)), np.array([9, 0, 5, 6])
    source.add("s", scales)
    read = _rows(source, _fp8_part(n_rows=4, row_order=order), 21)
    assert np.array_equal(read, (values * _spread(scales, 10, 21))[order])


def test_fp8_transposed_from_the_middle_of_a_block(source: RawSource) -> None:
    values, scales = _fp8(source, 10, 21), np.abs(_gaussian(3, 3))
    source.add("s", scales)
    part = _fp8_part(n_rows=13, first_row=5, transposed=True, source_columns=21, first_column=3)
    assert np.array_equal(_rows(source, part, 6), (values * _spread(scales, 10, 21))[3:9, 5:18].T)


def test_fp8_experts_stacked_with_their_scales(source: RawSource) -> None:
    values, scales = _fp8(source, 2, 5, 16), np.abs(_gaussian(2, 2, 2))
    source.add("s", scales)
    expected = np.stack([values[e] * _spread(scales[e], 5, 16) for e in range(2)])
    assert np.array_equal(_rows(source, _fp8_part(), 16), expected.reshape(10, 16))


def test_fp8_with_a_scale_for_each_expert(source: RawSource) -> None:
    values, scales = _fp8(source, 2, 5, 16), np.abs(_gaussian(2, 1, 1))
    source.add("s", scales)
    assert np.array_equal(_rows(source, _fp8_part(), 16), (values * scales).reshape(10, 16))


@pytest.mark.parametrize("shape", [(), (1,)])
def test_fp8_with_one_scale_for_all(source: RawSource, shape: tuple[int, ...]) -> None:
    values = _fp8(source, 2, 5, 16)
    source.add("s", np.full(shape, 0.25, np.float32))
    assert np.array_equal(_rows(source, _fp8_part(), 16), (values * np.float32(0.25)).reshape(10, 16))


def test_fp8_with_the_wrong_number_of_scales_is_refused(source: RawSource) -> None:
    _fp8(source, 10, 21)
    source.add("s", np.ones((3, 2), np.float32))
    with pytest.raises(InvalidCheckpoint, match=r"s holds 6 scales where w .*4 × 8 needs 9"):
        _rows(source, _fp8_part(), 21)


# MXFP4 ----------------------------------------------------------------------------------------------------

_FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
"""OCP Microscaling Formats 1.0, section 5.3.3."""


def _mxfp4(source: RawSource, n_rows: int, n_blocks: int) -> npt.NDArray[np.float32]:
    random = np.random.default_rng(4)
    blocks = random.integers(0, 256, (n_rows, n_blocks, 16)).astype(np.uint8)
    exponents = random.integers(100, 140, (n_rows, n_blocks)).astype(np.uint8)
    source.add("b", blocks, dtype="U8")
    source.add("e", exponents, dtype="U8")
    numbers = np.stack([_FP4[blocks & 0x0F], _FP4[blocks >> 4]], axis=-1).reshape(n_rows, n_blocks, 32)
    scales = 2.0 ** (exponents.astype(np.float32) - 127)
    values: npt.NDArray[np.float32] = (numbers * scales[:, :, None]).astype(np.float32)
    return values.reshape(n_rows, -1)


def test_mxfp4_reads_as_its_definition_says(source: RawSource) -> None:
    values = _mxfp4(source, 6, 3)
    part = Part(
        source="b", scale="e", target_row=0, n_rows=3, first_row=1, row_step=2, encoding=Encoding.MXFP4
    )
    assert np.array_equal(_rows(source, part, 96), values[1::2])


def test_mxfp4_blocks_are_moved_and_mean_the_same_to_ggml(source: RawSource) -> None:
    values = _mxfp4(source, 6, 3)
    part = Part(source="b", scale="e", target_row=0, n_rows=6, encoding=Encoding.MXFP4)
    moved = np.frombuffer(_encoded(source, part, Q.MXFP4, 96), np.uint8)
    read_back = np.empty((6, 96), np.float32)
    ggml.widen(Q.MXFP4, moved, read_back)
    assert np.array_equal(read_back, values)
    assert np.array_equal(quants.dequantize(moved.reshape(6, -1), Q.MXFP4), values)


def test_an_mxfp4_exponent_that_is_nan_is_refused(source: RawSource) -> None:
    source.add("b", np.zeros((1, 1, 16), np.uint8), dtype="U8")
    source.add("e", np.full((1, 1), 0xFF, np.uint8), dtype="U8")
    part = Part(source="b", scale="e", target_row=0, n_rows=1, encoding=Encoding.MXFP4)
    with pytest.raises(InvalidCheckpoint, match="e has an exponent that stands for NaN"):
        _encoded(source, part, Q.MXFP4, 32)


# Maps, checks, moves --------------------------------------------------------------------------------------


def test_element_maps(source: RawSource) -> None:
    data = _gaussian(2, 5)
    source.add("w", data)
    plus_one = Part(source="w", target_row=0, n_rows=2, element_map=ElementMap.ADD_ONE)
    decay = Part(source="w", target_row=0, n_rows=2, element_map=ElementMap.NEG_EXP)
    assert np.array_equal(_rows(source, plus_one, 5), data + 1)
    np.testing.assert_allclose(_rows(source, decay, 5), -np.exp(data), rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [Q.F32, Q.F16, Q.BF16, Q.Q8_0])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_numbers_that_are_not_finite_are_refused_with_tensor_and_row(
    source: RawSource, value: float, kind: GGMLQuantizationType, dtype: str
) -> None:
    data = _gaussian(8, 32)
    data[5, 3] = value
    stored: dict[str, npt.NDArray[np.generic]] = {"F32": data, "F16": data.astype(np.float16)}
    source.add("model.w\x1b[2J", stored.get(dtype, bf16(data)), dtype=dtype)
    part = Part(source="model.w\x1b[2J", target_row=0, n_rows=4, first_row=4)
    with pytest.raises(InvalidCheckpoint, match=r"^model\.w\[2J has a number.*NaN or infinite in row 5"):
        _encoded(source, part, kind, 32)


def test_a_q8_0_scale_that_is_infinite_is_refused_when_moved(source: RawSource) -> None:
    encoded = quants.quantize(_gaussian(4, 32), Q.Q8_0)
    encoded[2, :2].view(np.uint16)[0] = 0x7C00
    source.add("w", encoded, dtype="Q8_0", shape=(4, 32))
    with pytest.raises(InvalidCheckpoint, match="in row 2"):
        _encoded(source, Part(source="w", target_row=0, n_rows=4), Q.Q8_0, 32)


@pytest.mark.parametrize("kind", [Q.F32, Q.F16, Q.BF16, Q.Q8_0, Q.Q4_K])
def test_bits_are_moved_where_the_types_agree(source: RawSource, kind: GGMLQuantizationType) -> None:
    into = np.empty(4 * 8 * 256, np.uint8)
    encoded = into[: ggml.quantize(kind, _gaussian(8, 256), into)].reshape(8, -1)
    source.add("w", encoded, dtype=kind.name, shape=(8, 256))
    part = Part(source="w", target_row=0, n_rows=4, row_order=np.array([7, 0, 3, 4]))
    assert _encoded(source, part, kind, 256) == encoded[[7, 0, 3, 4]].tobytes()


def test_blocks_that_would_be_scaled_anew_are_moved_as_they_are(source: RawSource) -> None:
    encoded = quants.quantize(_gaussian(2, 32), Q.Q8_0)
    encoded[:, 2:] = 5  # a scale for 127 with numbers up to 5
    source.add("w", encoded, dtype="Q8_0", shape=(2, 32))
    part = Part(source="w", target_row=0, n_rows=2)
    assert _encoded(source, part, Q.Q8_0, 32) == encoded.tobytes()


def test_missing_bytes_are_the_checkpoints_fault(source: RawSource) -> None:
    source.add("w", _gaussian(2, 8))
    with pytest.raises(InvalidCheckpoint):
        _rows(source, Part(source="w", target_row=0, n_rows=3), 8)

"""A safetensors header is read exactly, and whatever is wrong with one is one clear sentence."""

from __future__ import annotations

import json
import os
import struct
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeapp.errors import EdgeappError, InvalidCheckpoint, UnsupportedCheckpoint
from edgeapp_converters.safetensors import MAX_HEADER_BYTES, header_bytes, parse_header, read_header
from tests.converters.checkpoints import write_safetensors

if TYPE_CHECKING:
    from pathlib import Path

    from edgeapp_converters.source import SourceTensor

SHARD = "model.safetensors"


def entry(shape: object, begin: object, end: object, dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


GOOD: dict[str, Any] = {
    "__metadata__": {"format": "pt"},
    "a": entry([2, 3], 0, 24),
    "b": entry([4], 24, 32, "BF16"),
}
DATA_BYTES = 32


def file_bytes(header: object, *, data_bytes: int = DATA_BYTES) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data_bytes)


def read(tmp_path: Path, content: bytes) -> dict[str, SourceTensor]:
    path = tmp_path / SHARD
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    try:
        return read_header(fd, shard=SHARD)
    finally:
        os.close(fd)


def test_a_header_gives_shape_type_and_place_in_the_file(tmp_path: Path) -> None:
    content = file_bytes(GOOD)
    a, b = read(tmp_path, content).values()
    assert (a.name, a.dtype, a.shape, a.n_bytes) == ("a", "F32", (2, 3), 24)
    assert (b.name, b.dtype, b.shape, b.n_bytes) == ("b", "BF16", (4,), 8)
    assert a.offset_bytes == len(content) - DATA_BYTES
    assert b.offset_bytes == a.offset_bytes + 24


def test_tensors_come_in_the_order_of_their_bytes(tmp_path: Path) -> None:
    assert list(read(tmp_path, file_bytes({"late": GOOD["b"], "early": GOOD["a"]}))) == ["early", "late"]


@pytest.mark.parametrize(
    ("dtype", "element_bytes"),
    [("F64", 8), ("F32", 4), ("F16", 2), ("BF16", 2), ("F8_E4M3", 1), ("F8_E5M2", 1), ("U8", 1), ("I64", 8)],
)
def test_an_element_type_has_its_size(tmp_path: Path, dtype: str, element_bytes: int) -> None:
    n_bytes = 6 * element_bytes
    header = {"x": entry([2, 3], 0, n_bytes, dtype)}
    assert read(tmp_path, file_bytes(header, data_bytes=n_bytes))["x"].dtype == dtype


def test_scalars_and_empty_tensors_are_tensors(tmp_path: Path) -> None:
    header = {"scalar": entry([], 0, 4), "empty": entry([0, 7], 4, 4)}
    found = read(tmp_path, file_bytes(header, data_bytes=4))
    assert {name: tensor.shape for name, tensor in found.items()} == {"scalar": (), "empty": (0, 7)}


def test_what_our_tests_write_is_read_back(tmp_path: Path) -> None:
    tensors = [("x.weight", (3, 5), "F32"), ("y.weight", (7,), "F16")]
    write_safetensors(tmp_path / SHARD, tensors)
    found = read(tmp_path, (tmp_path / SHARD).read_bytes())
    assert [(tensor.name, tensor.shape, tensor.dtype) for tensor in found.values()] == tensors


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "0 bytes, too few"),
    "shorter than the length": (b"\x10\0\0", "3 bytes, too few"),
    "length beyond the file": (struct.pack("<Q", 1000) + b"{}", "claims a header of 1000 bytes"),
    "length of 2**64 - 1": (b"\xff" * 8 + b"{}", "claims a header of 18446744073709551615"),
    "no JSON": (file_bytes(b"PK\x03\x04 pickle"), "valid JSON"),
    "no UTF-8": (file_bytes(b'{"\xff": 1}'), "valid JSON"),
    "JSON cut short": (file_bytes(json.dumps(GOOD).encode()[:-3]), "valid JSON"),
    "an array": (file_bytes([GOOD]), "JSON object"),
    "nested a million deep": (file_bytes(b"[" * 1_000_000), "valid JSON"),
    "an object nested deep": (file_bytes(b'{"a":' * 200_000), "valid JSON"),
    "a number of 5000 digits": (file_bytes(b'{"a": ' + b"9" * 5000 + b"}"), "valid JSON"),
    "duplicate tensor": (file_bytes(b'{"a": 1, "a": 2}'), "a key occurs twice"),
    "duplicate key in an entry": (
        file_bytes(b'{"a": {"dtype": "F32", "dtype": "F16", "shape": [], "data_offsets": [0, 4]}}'),
        "a key occurs twice",
    ),
    "metadata that is no object": (file_bytes(GOOD | {"__metadata__": [1]}), "__metadata__"),
    "entry that is no object": (file_bytes(GOOD | {"a": 7}), "does not describe"),
    "entry without shape": (
        file_bytes({"a": {"dtype": "F32", "data_offsets": [0, 32]}}),
        "does not describe",
    ),
    "entry without offsets": (file_bytes({"a": {"dtype": "F32", "shape": [8]}}), "does not describe"),
    "unknown type": (file_bytes({"a": entry([8], 0, 32, "F33")}), "no element type"),
    "type that is a list": (file_bytes({"a": entry([8], 0, 32, ["F32"])}), "no element type"),
    "type with an escape sequence": (file_bytes({"a": entry([8], 0, 32, "\x1b[2J")}), "no element type"),
    "negative dimension": (file_bytes({"a": entry([-8], 0, 32)}), "impossible size"),
    "two negative dimensions": (file_bytes({"a": entry([-2, -4], 0, 32)}), "impossible size"),
    "fractional dimension": (file_bytes({"a": entry([8.0], 0, 32)}), "impossible size"),
    "boolean dimension": (file_bytes({"a": entry([True, 8], 0, 32)}), "impossible size"),
    "dimension as text": (file_bytes({"a": entry(["8"], 0, 32)}), "impossible size"),
    "dimension of 2**64": (file_bytes({"a": entry([1 << 64], 0, 32)}), "impossible size"),
    "product that wraps to the span": (
        file_bytes({"a": entry([(1 << 62) + 8], 0, 32)}),
        "but its shape needs 18446744073709551648",
    ),
    "dimensions that overflow": (file_bytes({"a": entry([1 << 40, 1 << 40], 0, 32)}), "its shape needs"),
    "nine dimensions": (file_bytes({"a": entry([1] * 8 + [8], 0, 32)}), "does not describe"),
    "shape that is no list": (file_bytes({"a": entry(8, 0, 32)}), "does not describe"),
    "span too short": (file_bytes({"a": entry([8], 0, 28)}), "28 bytes, but its shape needs 32"),
    "span too long": (file_bytes({"a": entry([7], 0, 32)}), "32 bytes, but its shape needs 28"),
    "end before begin": (file_bytes({"a": entry([8], 32, 0)}), "-32 bytes, but its shape needs 32"),
    "negative begin": (file_bytes({"a": entry([8], -32, 0)}), "impossible size or offset"),
    "three offsets": (
        file_bytes({"a": {"dtype": "F32", "shape": [8], "data_offsets": [0, 32, 64]}}),
        "does not describe",
    ),
    "overlap": (file_bytes({"a": entry([5], 0, 20), "b": entry([4], 16, 32)}), "overlaps another tensor: b"),
    "the same bytes twice": (file_bytes({"a": entry([8], 0, 32), "b": entry([8], 0, 32)}), "overlaps"),
    "hole": (file_bytes({"a": entry([3], 0, 12), "b": entry([4], 16, 32)}), "leaves a hole before it: b"),
    "hole at the start": (file_bytes({"a": entry([7], 4, 32)}), "leaves a hole before it: a"),
    "data cut short": (file_bytes(GOOD, data_bytes=DATA_BYTES - 1), "ends 1 bytes before"),
    "data missing": (file_bytes(GOOD, data_bytes=0), "ends 32 bytes before"),
    "bytes behind the last tensor": (file_bytes(GOOD, data_bytes=DATA_BYTES + 5), "has 5 bytes behind"),
    "data without a tensor": (file_bytes({}), "has 32 bytes behind"),
    "empty name": (file_bytes({"": entry([8], 0, 32)}), "impossible name"),
    "name with an escape sequence": (file_bytes({"a\x1b[2J": entry([8], 0, 32)}), "impossible name"),
    "name with a newline": (file_bytes({"a\nb": entry([8], 0, 32)}), "impossible name"),
    "name that turns text around": (file_bytes({"a\u202eb": entry([8], 0, 32)}), "impossible name"),
    "name with a lone surrogate": (file_bytes(b'{"\\ud800": 1}'), "impossible name"),
    "name of 600 characters": (file_bytes({"a" * 600: entry([8], 0, 32)}), "impossible name"),
}


@pytest.mark.parametrize("fault", HOSTILE)
def test_a_damaged_header_is_refused_with_the_file_and_the_fault(tmp_path: Path, fault: str) -> None:
    content, expected = HOSTILE[fault]
    with pytest.raises(InvalidCheckpoint) as caught:
        read(tmp_path, content)
    assert caught.value.message.startswith(SHARD)
    assert expected in caught.value.message
    assert caught.value.message.isprintable()
    assert caught.value.hint


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "C64"])
def test_a_type_of_the_format_that_we_cannot_convert_is_not_called_damage(tmp_path: Path, dtype: str) -> None:
    with pytest.raises(UnsupportedCheckpoint, match=f"stores a as {dtype}, which cannot be converted"):
        read(tmp_path, file_bytes({"a": entry([8], 0, 32, dtype)}))


def test_a_header_above_the_formats_own_limit_is_refused_before_it_is_read() -> None:
    start = struct.pack("<Q", MAX_HEADER_BYTES + 1)
    with pytest.raises(InvalidCheckpoint, match="claims a header of 100000001 bytes"):
        header_bytes(start, file_bytes=1 << 40, shard=SHARD)


def test_more_tensors_than_a_million_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeapp_converters.safetensors._MAX_TENSORS", 1)
    with pytest.raises(InvalidCheckpoint, match="has 2 tensors; at most 1"):
        parse_header(json.dumps(GOOD).encode(), data_bytes=DATA_BYTES, shard=SHARD)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["F32"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "a"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=120, deadline=None)
@given(entries=st.dictionaries(st.text(max_size=8), _JSON, max_size=4))
def test_any_json_is_tensors_that_fill_the_data_or_one_clear_error(entries: dict[str, object]) -> None:
    header = json.dumps(entries).encode()
    try:
        found = parse_header(header, data_bytes=DATA_BYTES, shard=SHARD)
    except EdgeappError:
        return
    assert sum(tensor.n_bytes for tensor in found.values()) == DATA_BYTES


@settings(max_examples=120, deadline=None)
@given(place=st.integers(0, 200), bit=st.integers(0, 7))
def test_a_flipped_bit_is_a_consistent_header_or_one_clear_error(place: int, bit: int) -> None:
    header = bytearray(json.dumps(GOOD).encode())
    header[place % len(header)] ^= 1 << bit
    try:
        found = parse_header(bytes(header), data_bytes=DATA_BYTES, shard=SHARD)
    except EdgeappError:
        return
    assert sum(tensor.n_bytes for tensor in found.values()) == DATA_BYTES

"""Whatever bytes a header holds, reading it ends with facts or a `ModelError`, in bounded memory."""

from __future__ import annotations

import os
import struct
import tracemalloc
from itertools import islice
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeapp.errors import ModelError
from edgeapp.gguf_info import read_gguf_info
from tests import gguf_mutations
from tests.gguf_bytes import GgufBytes
from tests.tiny_moe import demo_model_path, write_tiny_moe

if TYPE_CHECKING:
    from pathlib import Path

MAX_PEAK_BYTES = 32 << 20


def refused(path: Path) -> bool:
    try:
        read_gguf_info(path)
    except ModelError:
        return True
    return False


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_tiny_moe(tmp_path_factory.mktemp("tiny") / "tiny.gguf").read_bytes()


@pytest.fixture(scope="module")
def demo_header() -> bytes:
    with demo_model_path().open("rb") as file:
        start = file.read(4 << 20)
    return start[: gguf_mutations.header_bytes(start)]


def test_mutations_of_the_tiny_moe_are_read_or_refused(tmp_path: Path, tiny: bytes) -> None:
    path = tmp_path / "mutated.gguf"
    outcomes = []
    for data in gguf_mutations.mutations(tiny, 600, seed=1):
        path.write_bytes(data)
        outcomes.append(refused(path))
    assert len(outcomes) == 600
    assert 300 < sum(outcomes) < 600  # most are refused; a changed letter in a name is no damage


def test_mutations_of_the_demo_header_are_read_or_refused(tmp_path: Path, demo_header: bytes) -> None:
    path = tmp_path / "mutated.gguf"
    outcomes = []
    for data in gguf_mutations.mutations(demo_header, 200, seed=2):
        path.write_bytes(data)
        if len(data) == len(demo_header):  # the rest of the file stays: sparse, but as long as the weights
            os.truncate(path, demo_model_path().stat().st_size)
        outcomes.append(refused(path))
    assert 60 < sum(outcomes) < 200


def test_a_lie_in_any_structural_number_is_survived_in_bounded_memory(tmp_path: Path) -> None:
    path = write_tiny_moe(tmp_path / "tiny.gguf", n_layer=1, n_vocab=280)
    good = path.read_bytes()
    outcomes = []
    tracemalloc.start()
    try:
        for data in gguf_mutations.lies(good):
            path.write_bytes(data)
            outcomes.append(refused(path))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(outcomes) > 1000
    assert sum(outcomes) > 0.8 * len(outcomes)
    assert peak_bytes < MAX_PEAK_BYTES


def test_the_same_seed_gives_the_same_mutations(tiny: bytes) -> None:
    first = list(gguf_mutations.mutations(tiny, 12, seed=3))
    assert first == list(gguf_mutations.mutations(tiny, 12, seed=3))
    assert first != list(gguf_mutations.mutations(tiny, 12, seed=4))
    assert sum(data != tiny for data in first) >= 11


def test_unchanged_bytes_are_read(tmp_path: Path, tiny: bytes) -> None:
    path = tmp_path / "same.gguf"
    path.write_bytes(tiny)
    assert not refused(path)


def test_lies_replace_every_count(tiny: bytes) -> None:
    n_tensors = {struct.unpack_from("<Q", data, 8)[0] for data in islice(gguf_mutations.lies(tiny), 33)}
    assert set(gguf_mutations.LIES) < n_tensors


_magic = st.sampled_from([b"", b"GGUF", b"GGUF\x03\0\0\0", b"GGUF\x02\0\0\0" + bytes(7)])
_small_count = st.integers(min_value=0, max_value=3).map(lambda count: struct.pack("<Q", count))
_keys = st.lists(
    st.tuples(st.text(max_size=8), st.integers(0, 13), st.binary(max_size=24)).map(
        lambda key: (
            struct.pack("<Q", len(key[0].encode())) + key[0].encode() + struct.pack("<I", key[1]) + key[2]
        )
    ),
    max_size=3,
).map(b"".join)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=_magic, counts=st.tuples(_small_count, _small_count), keys=_keys, rest=st.binary(max_size=400))
def test_random_bytes_are_refused(
    tmp_path: Path, start: bytes, counts: tuple[bytes, bytes], keys: bytes, rest: bytes
) -> None:
    path = tmp_path / "random.gguf"
    path.write_bytes(start + b"".join(counts) + keys + rest)
    assert refused(path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_bytes_in_a_good_header_are_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    good = GgufBytes().encode()
    at = data.draw(st.integers(0, len(good)))
    patch = data.draw(st.binary(min_size=1, max_size=32))
    path = tmp_path / "patched.gguf"
    path.write_bytes(good[:at] + patch + good[at + len(patch) :])
    refused(path)

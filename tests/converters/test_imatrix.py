"""The importance matrix file, how rarely used experts are treated, and how one is collected."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Mapping
from typing import TYPE_CHECKING

import gguf
import numpy as np
import pytest

from edgeapp.errors import InvalidModel, ModelError, ModelNotFound, UsageError
from edgeapp.runtime import measuring
from edgeapp_converters import imatrix
from edgeapp_converters.chunks import chunks
from edgeapp_converters.collect import collect_imatrix, keep_inputs
from edgeapp_converters.events import StageProgress, Warned
from edgeapp_converters.imatrix import Coverage, Imatrix
from tests.tiny_moe import N_EMBD, write_tiny_moe

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from edgeapp_converters.events import ConversionEvent

Arrays = Mapping[str, "NDArray[np.generic]"]
EXPERTS = "blk.0.ffn_up_exps.weight"
TEXT = "The quick brown fox jumps over the lazy dog, again and again; 1 + 1 = 2.\n" * 60


def floats(*rows: list[float]) -> NDArray[np.float32]:
    return np.array(rows, dtype=np.float32)


def write_arrays(path: Path, tensors: Arrays, **keys: str) -> Path:
    writer = gguf.GGUFWriter(path, "")
    writer.add_type(keys.get("type", "imatrix"))
    writer.add_uint32("imatrix.chunk_size", 256)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def two_experts(sums: NDArray[np.float32], counts: NDArray[np.float32]) -> Arrays:
    return {f"{EXPERTS}.in_sum2": sums, f"{EXPERTS}.counts": counts}


# Files -----------------------------------------------------------------------------------------------------


def test_values_are_sums_by_counts_and_1_for_an_expert_without_tokens(tmp_path: Path) -> None:
    tensors = two_experts(floats([6, 8], [0, 0], [9, 3]), floats([2], [0], [3]))
    found = imatrix.read(write_arrays(tmp_path / "i.gguf", tensors))
    assert found.entries[EXPERTS].tolist() == [[3, 4], [1, 1], [3, 1]]
    assert found.counts[EXPERTS].tolist() == [2, 0, 3]
    assert found.chunk_size == 256


def test_what_was_read_is_written_so_that_it_reads_the_same(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    sums = (random.random((40, 500)) * 10.0 ** random.integers(-20, 20, (40, 500))).astype(np.float32)
    counts = random.integers(0, 100_000, (40, 1)).astype(np.float32)
    counts[7] = 0
    first = imatrix.read(write_arrays(tmp_path / "a.gguf", two_experts(sums, counts)))
    imatrix.write(tmp_path / "b.gguf", first)
    again = imatrix.read(tmp_path / "b.gguf")
    assert again.entries[EXPERTS].tobytes() == first.entries[EXPERTS].tobytes()
    assert again.counts[EXPERTS].tolist() == first.counts[EXPERTS].tolist()


def test_a_filled_expert_keeps_its_values_in_a_file(tmp_path: Path) -> None:
    sparse = Imatrix(
        entries={EXPERTS: floats([4, 8], [1, 1])},
        counts={EXPERTS: np.array([10, 0], dtype=np.float32)},
        datasets=("prose", "code"),
        chunk_size=128,
    )
    imatrix.write(tmp_path / "i.gguf", sparse.shrunk())
    found = imatrix.read(tmp_path / "i.gguf")
    assert found.entries[EXPERTS].tolist() == [[4, 8], [4, 8]]
    assert (found.datasets, found.chunk_size) == (("prose", "code"), 128)
    assert [file.name for file in tmp_path.iterdir()] == ["i.gguf"]


def test_a_matrix_outlives_its_file_and_takes_no_memory_until_it_is_asked_for(tmp_path: Path) -> None:
    big = np.ones((64, 1 << 16), dtype=np.float32)  # 16 MiB
    tensors = {f"t{n}.in_sum2": big * n for n in range(4)} | {
        f"t{n}.counts": np.full((64, 1), 2, dtype=np.float32) for n in range(4)
    }
    path = write_arrays(tmp_path / "i.gguf", tensors)
    del tensors
    tracemalloc.start()
    found = imatrix.read(path).shrunk()
    path.unlink()
    held_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held_bytes < 1 << 20
    assert [found.entries[f"t{n}"][63, 5] for n in range(4)] == [0, 0.5, 1, 1.5]


def test_a_file_cut_while_it_is_used_is_an_error(tmp_path: Path) -> None:
    path = write_arrays(
        tmp_path / "i.gguf", two_experts(np.ones((2, 4096), dtype=np.float32), floats([1], [1]))
    )
    found = imatrix.read(path)
    os.truncate(path, 5000)
    with pytest.raises(InvalidModel, match="cut short"):
        found.row(EXPERTS, 0)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (two_experts(floats([1, np.nan]), floats([1])), "no sum of squares"),
        (two_experts(floats([1, np.inf]), floats([1])), "no sum of squares"),
        (two_experts(floats([1, -2]), floats([1])), "no sum of squares"),
        (two_experts(floats([1, 2]), floats([-1])), "no sum of squares"),
        (two_experts(floats([1, 2, 3]), floats([1], [1])), "3 sums for 2 counts"),
        ({f"{EXPERTS}.in_sum2": floats([1, 2])}, "in pairs"),
        ({f"{EXPERTS}.counts": floats([1, 2])}, "holds no importance matrix"),
        (
            {f"{EXPERTS}.in_sum2": floats([1, 2]).astype(np.float16), f"{EXPERTS}.counts": floats([1])},
            "not F32",
        ),
    ],
)
def test_a_file_with_impossible_content_is_refused(tmp_path: Path, tensors: Arrays, said: str) -> None:
    with pytest.raises(InvalidModel, match=said) as caught:
        imatrix.read(write_arrays(tmp_path / "i.gguf", tensors))
    assert caught.value.hint


def test_every_shorter_file_is_refused(tmp_path: Path) -> None:
    tensors = two_experts(floats([6, 8], [0, 0]), floats([2], [0]))
    data = write_arrays(tmp_path / "whole.gguf", tensors).read_bytes()
    end = len(data) - 24  # after the last count comes padding, which may be missing
    cut = tmp_path / "cut.gguf"
    for length in range(0, end, 7):
        cut.write_bytes(data[:length])
        with pytest.raises(ModelError):
            imatrix.read(cut)


def test_the_old_format_is_refused_with_the_way_to_convert_it(tmp_path: Path) -> None:
    old = tmp_path / "imatrix.dat"
    old.write_bytes((1).to_bytes(4, "little") + (3).to_bytes(4, "little") + b"abc" + bytes(40))
    with pytest.raises(InvalidModel, match=r"old \.dat format") as caught:
        imatrix.read(old)
    assert "llama-imatrix --in-file" in caught.value.hint


def test_a_model_is_no_importance_matrix(tiny_moe: Path) -> None:
    with pytest.raises(InvalidModel, match="not an importance matrix"):
        imatrix.read(tiny_moe)


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        imatrix.read(tmp_path / "none.gguf")


# Values ----------------------------------------------------------------------------------------------------


def test_rare_experts_lean_on_the_mean_of_their_layer() -> None:
    counts = np.array([96, 32, 0], dtype=np.float32)
    found = Imatrix(
        entries={EXPERTS: floats([4], [8], [1]), "dense": floats([3])},
        counts={EXPERTS: counts, "dense": np.array([2], dtype=np.float32)},
    ).shrunk(k=64)
    mean = (96 * 4 + 32 * 8) / 128
    expected = [(96 * 4 + 64 * mean) / 160, (32 * 8 + 64 * mean) / 96, mean]
    np.testing.assert_allclose(found.entries[EXPERTS][:, 0], expected, rtol=1e-6)
    assert found.entries["dense"].tolist() == [[3]]
    assert found.counts[EXPERTS].tolist() == [96, 32, 0]


def test_an_experts_row_is_its_own_and_a_dense_row_is_everybodys() -> None:
    found = Imatrix(
        entries={EXPERTS: floats([1, 2], [3, 4]), "dense": floats([5, 6, 7, 8])},
        counts={EXPERTS: np.ones(2, dtype=np.float32), "dense": np.ones(1, dtype=np.float32)},
    )
    assert [list(row) for n in (0, 1) if (row := found.row(EXPERTS, n)) is not None] == [[1, 2], [3, 4]]
    dense, stacked = found.row("dense", 3), found.row("dense", 1, columns=2)
    assert dense is not None
    assert stacked is not None
    assert dense.tolist() == [5, 6, 7, 8]
    assert stacked.tolist() == [7, 8]
    assert found.row("unknown", 0) is None


def test_coverage_counts_the_experts_that_saw_nothing() -> None:
    counts = np.array([5, 0, 90, 7], dtype=np.float32)
    found = Imatrix(
        entries={EXPERTS: np.ones((4, 2), dtype=np.float32), "dense": floats([1])},
        counts={EXPERTS: counts, "dense": np.ones(1, dtype=np.float32)},
    )
    expected = Coverage(name=EXPERTS, n_expert=4, n_unseen=1, fewest_tokens=5, median_tokens=6)
    assert found.coverage() == (expected,)


# Collecting ------------------------------------------------------------------------------------------------


def test_chunks_are_whole_and_begin_with_bos_where_there_is_one() -> None:
    assert chunks(list(range(11)), n_ctx=4, bos=None) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert chunks(list(range(8)), n_ctx=4, bos=99) == [[99, 1, 2, 3], [99, 5, 6, 7]]
    assert chunks([1, 2, 3], n_ctx=4, bos=None) == []


async def test_a_matrix_is_collected_from_whole_chunks_of_a_text(tiny_moe: Path) -> None:
    events: list[ConversionEvent] = []
    found = await collect_imatrix(
        tiny_moe, TEXT, dataset="prose abc", n_threads=1, n_ctx=128, max_tokens=600, report=events.append
    )
    assert found.counts["blk.0.attn_q.weight"].tolist() == [512]
    assert found.counts["blk.1.ffn_down_exps.weight"].sum() == 512 * 2
    assert (found.datasets, found.chunk_size) == (("prose abc",), 128)
    shown = [event for event in events if isinstance(event, StageProgress)]
    assert [(event.done, event.total) for event in shown] == [(done, 512) for done in range(0, 513, 128)]


async def test_experts_that_saw_nothing_are_said_to_the_user(tmp_path: Path) -> None:
    model = write_tiny_moe(tmp_path / "many.gguf", n_expert=32, n_expert_used=1, n_layer=1)
    events: list[ConversionEvent] = []
    found = await collect_imatrix(
        model, "a " * 64, dataset="x", n_threads=1, n_ctx=64, max_tokens=64, report=events.append
    )
    unseen = int((found.counts["blk.0.ffn_up_exps.weight"] == 0).sum())
    assert unseen > 0
    (warning,) = [event for event in events if isinstance(event, Warned)]
    assert warning.message.startswith(f"{3 * unseen} of 96 expert matrices")
    assert np.isfinite(found.shrunk().entries["blk.0.ffn_up_exps.weight"]).all()


async def test_a_text_that_is_too_short_is_refused_with_the_numbers(tiny_moe: Path) -> None:
    with pytest.raises(UsageError, match="has 2 tokens, at least 512"):
        await collect_imatrix(tiny_moe, "abc", dataset="x", n_threads=1, report=lambda _event: None)


async def test_inputs_of_named_weights_can_be_kept(tiny_moe: Path, tmp_path: Path) -> None:
    names = ["blk.0.ffn_gate_inp.weight", "blk.1.ffn_gate_inp.weight"]
    n_tokens = await keep_inputs(
        tiny_moe, TEXT, names, tmp_path, n_threads=1, n_ctx=128, max_tokens=256, report=lambda _event: None
    )
    rows = [measuring.kept_inputs(tmp_path, index, n_tokens=n_tokens) for index in (0, 1)]
    assert rows[0].shape == rows[1].shape == (256, N_EMBD)
    assert not np.array_equal(rows[0], rows[1])

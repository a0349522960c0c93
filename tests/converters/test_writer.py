"""A whole file from a plan: the bytes, the order, the disk's refusals, the final rename."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader

from edgeapp.errors import ConversionFailed, InvalidCheckpoint, NotEnoughDisk
from edgeapp_converters import ggml
from edgeapp_converters.events import StageProgress
from edgeapp_converters.imatrix import Imatrix
from edgeapp_converters.metadata import f32, string, u32
from edgeapp_converters.writer import write_gguf
from tests.converters import small_model
from tests.converters.raw_source import RawSource, typed, whole, widened

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

    from edgeapp_converters.events import ConversionEvent
    from edgeapp_converters.metadata import Metadata

Q = GGMLQuantizationType


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RawSource]:
    made = small_model.make_source(tmp_path_factory.mktemp("checkpoint") / "shards")
    yield made
    made.close()


@pytest.fixture(scope="module")
def expected_sha256(source: RawSource, tmp_path_factory: pytest.TempPathFactory) -> str:
    return _commit(source, tmp_path_factory.mktemp("expected") / "one-thread.gguf", n_threads=1)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _commit(source: RawSource, target: Path, *, n_threads: int = 2) -> str:
    part = small_model.write(source, target, n_threads=n_threads)
    try:
        return part.commit()
    finally:
        part.close()


@pytest.mark.parametrize("is_weighed", [False, True])
def test_stacked_experts_are_each_quantized_as_if_alone(
    source: RawSource,
    tmp_path: Path,
    is_weighed: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    weights = np.random.default_rng(8).random((small_model.N_EXPERT, small_model.COLUMNS), np.float32)
    name = "blk.0.ffn_up_exps.weight"
    counts = np.ones(small_model.N_EXPERT, np.float32)
    imatrix = Imatrix(entries={name: weights}, counts={name: counts}) if is_weighed else None
    part = small_model.write(source, tmp_path / "out.gguf", imatrix=imatrix)
    stored = np.asarray(GGUFReader(part.path).tensors[0].data).reshape(small_model.N_EXPERT, -1)
    for expert in range(small_model.N_EXPERT):
        rows, into = _expert(source, expert), np.empty(small_model.ROWS * small_model.COLUMNS, np.uint8)
        n_bytes = ggml.quantize(Q.Q4_K, rows, into, weights[expert] if is_weighed else None)
        assert np.array_equal(stored[expert], into[:n_bytes])
    part.close()


def _expert(source: RawSource, expert: int) -> npt.NDArray[np.float32]:
    place = source.tensors[f"expert.{expert}"]
    codes = np.fromfile(
        source.folder / place.shard, np.uint16, count=place.n_bytes // 2, offset=place.offset_bytes
    )
    return widened(codes).reshape(small_model.ROWS, small_model.COLUMNS)


def test_the_file_says_what_was_planned(source: RawSource, tmp_path: Path, expected_sha256: str) -> None:
    assert _commit(source, tmp_path / "out.gguf") == expected_sha256
    assert hashlib.sha256((tmp_path / "out.gguf").read_bytes()).hexdigest() == expected_sha256
    tensors = GGUFReader(tmp_path / "out.gguf").tensors
    assert [(t.name, t.tensor_type, t.shape.tolist()) for t in tensors] == [
        ("blk.0.ffn_up_exps.weight", Q.Q4_K, [1024, 320, 6]),
        ("rope_freqs.weight", Q.F32, [5]),
        ("blk.0.attn_q.weight", Q.Q8_0, [256, 128]),
        ("output_norm.weight", Q.F32, [1024]),
    ]
    assert np.asarray(tensors[1].data).tolist() == [0, 1, 2, 3, 4]
    assert _names(tmp_path) == ["out.gguf"]


@pytest.mark.parametrize("n_threads", [2, 8])
def test_the_file_is_the_same_for_any_number_of_threads(
    source: RawSource, tmp_path: Path, expected_sha256: str, n_threads: int
) -> None:
    assert _commit(source, tmp_path / "out.gguf", n_threads=n_threads) == expected_sha256


def test_shards_are_fetched_in_order_and_given_back_when_nothing_needs_them(
    source: RawSource, tmp_path: Path
) -> None:
    source.log.clear()
    _commit(source, tmp_path / "out.gguf")
    assert source.log == [
        ("fetch", "one"),
        ("fetch", "two"),
        ("release", "two"),
        ("fetch", "one"),
        ("fetch", "three"),
        ("release", "one"),
        ("release", "three"),
    ]


def test_progress_begins_at_nothing_and_ends_at_everything(source: RawSource, tmp_path: Path) -> None:
    events: list[ConversionEvent] = []
    small_model.write(source, tmp_path / "out.gguf", report=events.append).close()
    progress = [event for event in events if isinstance(event, StageProgress)]
    assert {event.stage for event in progress} == {"converting"}
    expected = 2 * 6 * 320 * 1024 + 128 * 256 + 4 * 1024 + 4 * 5
    assert (progress[0].done, progress[-1].done, progress[0].total) == (0, expected, expected)
    assert [event.done for event in progress] == sorted(event.done for event in progress)


# llama.cpp's own quantizer --------------------------------------------------------------------------------

_QUANTIZE = """
import sys
import llama_cpp
params = llama_cpp.llama_model_quantize_default_params()
params.ftype, params.pure, params.nthread, params.allow_requantize = int(sys.argv[3]), True, 2, True
assert llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), params) == 0
"""
_LLAMA: Metadata = {
    "general.architecture": string("llama"),
    "llama.context_length": u32(512),
    "llama.embedding_length": u32(512),
    "llama.block_count": u32(1),
    "llama.feed_forward_length": u32(768),
    "llama.attention.head_count": u32(8),
    "llama.attention.layer_norm_rms_epsilon": f32(1e-5),
    "llama.expert_count": u32(4),
    "llama.expert_used_count": u32(2),
    "llama.vocab_size": u32(64),
}
_NAMES = {"token_embd.weight": (64, 512), "blk.0.ffn_down_exps.weight": (4, 512, 768)}


@pytest.mark.parametrize(
    ("stored", "kind", "ftype"),
    [(Q.F32, Q.Q8_0, 7), (Q.F32, Q.BF16, 32), (Q.F32, Q.F16, 1), (Q.BF16, Q.Q4_K, 15), (Q.Q8_0, Q.Q4_K, 15)],
)
def test_every_byte_is_that_of_llama_cpps_quantizer(
    tmp_path: Path, stored: GGMLQuantizationType, kind: GGMLQuantizationType, ftype: int
) -> None:
    source = RawSource(tmp_path)
    random = np.random.default_rng(6)
    for name, shape in _NAMES.items():
        source.add(name, random.standard_normal(shape, dtype=np.float32))

    def write(path: Path, kind: GGMLQuantizationType, source: RawSource) -> None:
        rows = {name: int(np.prod(shape[:-1])) for name, shape in _NAMES.items()}
        tensors = [typed(name, shape, kind, whole(name, rows[name])) for name, shape in _NAMES.items()]
        part = write_gguf(
            path,
            metadata=_LLAMA,
            tensors=tensors,
            source=source,
            imatrix=None,
            n_threads=2,
            fingerprint="",
            report=lambda _: None,
        )
        part.commit()
        part.close()

    original, official, ours = (tmp_path / f"{name}.gguf" for name in ("original", "official", "ours"))
    write(original, stored, source)
    arguments = [sys.executable, "-c", _QUANTIZE, str(original), str(official), str(ftype)]
    subprocess.run(arguments, check=True, capture_output=True)
    (tmp_path / "gguf").mkdir()
    again = RawSource(tmp_path / "gguf")
    for tensor in GGUFReader(original).tensors:
        again.add(tensor.name, np.asarray(tensor.data), dtype=stored.name, shape=_NAMES[tensor.name])
    write(ours, kind, again)
    theirs = {tensor.name: tensor for tensor in GGUFReader(official).tensors}
    for tensor in GGUFReader(ours).tensors:
        assert theirs[tensor.name].tensor_type == tensor.tensor_type == kind
        assert np.array_equal(tensor.data, theirs[tensor.name].data)


# Refusals -------------------------------------------------------------------------------------------------


def test_an_existing_file_is_untouched_until_the_commit(source: RawSource, tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    target.write_bytes(b"precious")
    part = small_model.write(source, target)
    assert target.read_bytes() == b"precious"
    assert part.path == tmp_path / "out.gguf.part"
    assert GGUFReader(part.path).tensors
    part.commit()
    part.close()
    assert target.read_bytes()[:4] == b"GGUF"


def test_two_writers_of_one_file_are_kept_apart(source: RawSource, tmp_path: Path) -> None:
    part = small_model.write(source, tmp_path / "out.gguf")
    with pytest.raises(ConversionFailed, match=r"out\.gguf\.part is being written by another process"):
        small_model.write(source, tmp_path / "out.gguf")
    part.close()
    small_model.write(source, tmp_path / "out.gguf").close()


def test_a_damaged_weight_stops_all_threads_and_keeps_the_part(tmp_path: Path) -> None:
    source = RawSource(tmp_path)
    data = np.ones((3000, 1024), np.float32)
    data[2048, 9] = np.nan
    source.add("w", data)
    with pytest.raises(InvalidCheckpoint, match="w has a number that is NaN or infinite in row 2048"):
        write_gguf(
            tmp_path / "out.gguf",
            metadata=_LLAMA,
            tensors=[typed("x", (3000, 1024), Q.Q8_0, whole("w", 3000))],
            source=source,
            imatrix=None,
            n_threads=4,
            fingerprint="",
            report=lambda _: None,
        )
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("piece")]
    assert (tmp_path / "out.gguf.part").exists()
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize(
    ("kind", "value", "is_noticed_by_ggml"),
    [(Q.F16, 70000.0, False), (Q.Q8_0, 1e7, False), (Q.Q4_K, 1e9, False), (Q.Q4_0, 1e6, True)],
)
def test_numbers_too_large_for_the_type_are_refused(
    tmp_path: Path,
    kind: GGMLQuantizationType,
    value: float,
    is_noticed_by_ggml: bool,  # noqa: FBT001 - a column of the table above
    capfd: pytest.CaptureFixture[str],
) -> None:
    source = RawSource(tmp_path)
    source.add("w", np.full((4, 256), value, np.float32))
    with pytest.raises(ConversionFailed, match=rf"x has numbers that {kind.name} cannot hold"):
        write_gguf(
            tmp_path / "out.gguf",
            metadata=_LLAMA,
            tensors=[typed("x", (4, 256), kind, whole("w", 4))],
            source=source,
            imatrix=None,
            n_threads=1,
            fingerprint="",
            report=lambda _: None,
        )
    assert bool(capfd.readouterr().err) == is_noticed_by_ggml


@pytest.mark.parametrize(
    ("shape", "what"), [((5, 1024), "no expert 5"), ((6, 512), "512 columns, not 1024,")]
)
def test_an_importance_matrix_of_another_model_is_refused(
    source: RawSource, tmp_path: Path, shape: tuple[int, int], what: str
) -> None:
    name = "blk.0.ffn_up_exps.weight"
    imatrix = Imatrix(
        entries={name: np.ones(shape, np.float32)}, counts={name: np.ones(shape[0], np.float32)}
    )
    with pytest.raises(ConversionFailed, match=f"The importance matrix has {what} for {name}"):
        small_model.write(source, tmp_path / "out.gguf", imatrix=imatrix)


def test_too_small_a_disk_is_noticed_before_any_work(
    source: RawSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 500_000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    source.log.clear()
    with pytest.raises(NotEnoughDisk, match=r"needs 1\.1 MB of disk space, but 0\.5 MB are free") as refusal:
        small_model.write(source, tmp_path / "out.gguf")
    assert refusal.value.free_bytes == 500_000
    assert refusal.value.needed_bytes > 1_000_000
    assert source.log == []
    assert _names(tmp_path) == []


_WITH_LIMIT = """
import resource, sys
from pathlib import Path
from edgeapp.errors import EdgeappError
from edgeapp_converters.events import StageProgress
from tests.converters import small_model

def limit(event):
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, resource.RLIM_INFINITY))

source = small_model.make_source_description(Path(sys.argv[1]))
if EARLY:
    limit(None)
try:
    small_model.write(source, Path(sys.argv[2]), report=limit)
except EdgeappError as problem:
    print(type(problem).__name__, problem.message)
"""


def _run_limited(source: RawSource, target: Path, *, limit_bytes: int, early: bool) -> str:
    code = _WITH_LIMIT.replace("LIMIT)", f"{limit_bytes})").replace("(LIMIT", f"({limit_bytes}")
    arguments = [sys.executable, "-c", code.replace("EARLY", str(early)), str(source.folder), str(target)]
    return subprocess.run(arguments, check=True, capture_output=True, text=True).stdout


def test_a_file_size_limit_is_noticed_before_any_work(source: RawSource, tmp_path: Path) -> None:
    said = _run_limited(source, tmp_path / "out.gguf", limit_bytes=1_000_000, early=True)
    assert said.startswith("NotEnoughDisk")
    assert _names(tmp_path) == []


def test_a_disk_that_is_full_later_keeps_the_part_and_the_next_run_goes_on(
    source: RawSource, tmp_path: Path, expected_sha256: str
) -> None:
    said = _run_limited(source, tmp_path / "out.gguf", limit_bytes=800_000, early=False)
    assert said.startswith("ConversionFailed out.gguf.part could not be written: File too large")
    assert _names(tmp_path) == ["out.gguf.part", "out.gguf.part.journal"]
    assert _commit(source, tmp_path / "out.gguf") == expected_sha256


def test_a_folder_that_does_not_exist_is_refused(source: RawSource, tmp_path: Path) -> None:
    with pytest.raises(ConversionFailed, match="No such file or directory"):
        small_model.write(source, tmp_path / "nowhere" / "out.gguf")


# Patching -------------------------------------------------------------------------------------------------


def test_values_are_patched_in_place(source: RawSource, tmp_path: Path) -> None:
    part = small_model.write(source, tmp_path / "out.gguf")
    part.patch("edgeapp.quality.kld_mean", f32(0.125))
    part.patch("edgeapp.quality.n_tokens", u32(77))
    digest = part.commit()
    part.close()
    assert digest == hashlib.sha256((tmp_path / "out.gguf").read_bytes()).hexdigest()
    fields = GGUFReader(tmp_path / "out.gguf").fields
    assert fields["edgeapp.quality.kld_mean"].contents() == 0.125
    assert fields["edgeapp.quality.n_tokens"].contents() == 77
    assert fields["general.architecture"].contents() == "llama"


def test_a_patch_that_does_not_fit_is_refused(source: RawSource, tmp_path: Path) -> None:
    part = small_model.write(source, tmp_path / "out.gguf")
    for key, value in (
        ("general.architecture", string("llama2")),
        ("edgeapp.quality.kld_mean", u32(1)),
        ("missing", u32(1)),
    ):
        with pytest.raises(ConversionFailed, match=key.replace(".", r"\.")):
            part.patch(key, value)
    part.close()

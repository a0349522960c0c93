"""A folder is opened as a checkpoint, or refused with what is wrong with it and what to do."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgeapp.errors import EdgeappError, InvalidCheckpoint, ModelNotFound, UnsupportedCheckpoint
from edgeapp_converters.checkpoint import open_folder
from edgeapp_converters.safetensors import parse_object
from tests.converters.checkpoints import values, write_safetensors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edgeapp_converters.source import TensorSource

CONFIG: dict[str, Any] = {
    "architectures": ["MixtralForCausalLM"],
    "num_hidden_layers": 2,
    "num_local_experts": 4,
    "vocab_size": 256,
}
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"
A, B = ("a.weight", (3, 5), "F32"), ("b.weight", (7,), "BF16")


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def write_index(folder: Path, weight_map: object) -> None:
    write_json(folder / INDEX, {"metadata": {}, "weight_map": weight_map})


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A checkpoint in one file."""
    folder = tmp_path / "Tiny-MoE"
    folder.mkdir()
    write_json(folder / "config.json", CONFIG)
    write_safetensors(folder / "model.safetensors", [A, B])
    return folder


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A checkpoint in two shards with an index."""
    folder = tmp_path / "Sharded-MoE"
    folder.mkdir()
    write_json(folder / "config.json", CONFIG)
    write_safetensors(folder / FIRST, [A])
    write_safetensors(folder / SECOND, [B])
    write_index(folder, {A[0]: FIRST, B[0]: SECOND})
    return folder


def bytes_of(source: TensorSource, name: str) -> bytes:
    tensor = source.tensors[name]
    into = bytearray(tensor.n_bytes)
    source.read(tensor, 0, memoryview(into))
    return bytes(into)


# What is opened ------------------------------------------------------------------------------------------


def test_a_single_file_is_opened_with_its_name_and_configuration(whole: Path) -> None:
    checkpoint = open_folder(whole)
    assert checkpoint.name == "Tiny-MoE"
    assert checkpoint.config == CONFIG
    assert checkpoint.folder == whole
    assert checkpoint.source.shards == ("model.safetensors",)
    assert bytes_of(checkpoint.source, A[0]) == values(*A).tobytes()
    assert bytes_of(checkpoint.source, B[0]) == values(*B).tobytes()


@pytest.mark.parametrize("has_index", [True, False])
def test_shards_are_opened_in_order_with_or_without_an_index(sharded: Path, has_index: bool) -> None:  # noqa: FBT001 - a parameter of the test
    if not has_index:
        (sharded / INDEX).unlink()
    source = open_folder(sharded).source
    assert source.shards == (FIRST, SECOND)
    assert source.tensors[A[0]].shard == FIRST
    assert bytes_of(source, B[0]) == values(*B).tobytes()


def test_the_same_weights_in_another_layout_are_left_alone(whole: Path) -> None:
    for other in (
        "consolidated.safetensors",
        "adapter_model.safetensors",
        "model-00001-of-00001.safetensors",
    ):
        write_safetensors(whole / other, [A])
    (whole / "._model.safetensors").write_bytes(b"left by a file manager")
    assert open_folder(whole).source.shards == ("model.safetensors",)


def test_a_piece_of_a_tensor_is_read_into_any_buffer(whole: Path) -> None:
    source = open_folder(whole).source
    into = np.zeros(4, np.float32)
    source.read(source.tensors[A[0]], 8, into.data)
    np.testing.assert_array_equal(into, values(*A)[2:6])


def test_many_threads_read_from_one_source(sharded: Path) -> None:
    source = open_folder(sharded).source
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda n: bytes_of(source, (A, B)[n % 2][0]), range(200)))
    assert found == {values(*A).tobytes(), values(*B).tobytes()}


def test_a_snapshot_of_the_hub_cache_is_opened_though_its_files_are_links_to_blobs(
    whole: Path, tmp_path: Path
) -> None:
    snapshot = hub_cache(tmp_path, whole)
    checkpoint = open_folder(snapshot)
    assert checkpoint.name == "Tiny-MoE"
    assert bytes_of(checkpoint.source, A[0]) == values(*A).tobytes()


def test_a_link_within_the_folder_is_followed(whole: Path) -> None:
    (whole / "model.safetensors").rename(whole / "weights")
    (whole / "model.safetensors").symlink_to("weights")
    assert bytes_of(open_folder(whole).source, B[0]) == values(*B).tobytes()


def hub_cache(tmp_path: Path, checkpoint: Path) -> Path:
    """Lay out the files of `checkpoint` as huggingface_hub caches a download; return the snapshot."""
    repository = tmp_path / "hub" / "models--acme--Tiny-MoE"
    snapshot = repository / "snapshots" / ("0123456789abcdef" * 3)[:40]
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, path in enumerate(sorted(checkpoint.iterdir())):
        blob = repository / "blobs" / f"{number:064x}"
        blob.write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(f"../../blobs/{blob.name}")
    return snapshot


# Identity ------------------------------------------------------------------------------------------------


def test_the_fingerprint_stays_until_something_that_decides_the_result_changes(whole: Path) -> None:
    first = open_folder(whole).source.fingerprint
    (whole / "notes.txt").write_text("not part of the model")
    assert open_folder(whole).source.fingerprint == first
    found = {first}
    write_json(whole / "config.json", CONFIG | {"rope_theta": 1})
    found.add(open_folder(whole).source.fingerprint)
    write_json(whole / "tokenizer.json", {})
    found.add(open_folder(whole).source.fingerprint)
    (whole / "additional_chat_templates").mkdir()
    (whole / "additional_chat_templates" / "tools.jinja").write_text("{{ x }}")
    found.add(open_folder(whole).source.fingerprint)
    os.utime(whole / "model.safetensors", ns=(1, 1))
    found.add(open_folder(whole).source.fingerprint)
    write_safetensors(whole / "model.safetensors", [("c.weight", *A[1:]), B])
    os.utime(whole / "model.safetensors", ns=(1, 1))
    found.add(open_folder(whole).source.fingerprint)
    assert len(found) == 6


def test_the_sha256_is_that_of_the_content_and_not_of_time_or_place(sharded: Path, tmp_path: Path) -> None:
    first = open_folder(sharded).source.sha256()
    moved = sharded.rename(tmp_path / "elsewhere")
    os.utime(moved / FIRST, ns=(1, 1))
    assert open_folder(moved).source.sha256() == first
    data = bytearray((moved / FIRST).read_bytes())
    data[-1] ^= 1
    (moved / FIRST).write_bytes(data)
    assert open_folder(moved).source.sha256() != first


# Files that change ---------------------------------------------------------------------------------------


def test_a_shard_that_was_cut_after_opening_is_an_error_and_no_crash(whole: Path) -> None:
    source = open_folder(whole).source
    source.fetch("model.safetensors")
    os.truncate(whole / "model.safetensors", source.tensors[B[0]].offset_bytes + 2)
    with pytest.raises(InvalidCheckpoint, match=r"ended in the middle of b\.weight"):
        bytes_of(source, B[0])


def test_a_shard_that_changed_between_header_and_reading_is_refused_every_time(whole: Path) -> None:
    source = open_folder(whole).source
    os.utime(whole / "model.safetensors", ns=(1, 1))
    for _ in range(2):
        with pytest.raises(InvalidCheckpoint, match="changed since its header was read"):
            source.fetch("model.safetensors")


def test_a_shard_that_changed_while_it_was_read_is_told_when_it_is_released(whole: Path) -> None:
    source = open_folder(whole).source
    bytes_of(source, A[0])
    with (whole / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"!")
        os.utime(file.fileno(), ns=(5, 5))
    with pytest.raises(InvalidCheckpoint, match="changed while it was read"):
        source.release("model.safetensors")


def test_a_released_shard_can_be_fetched_again(whole: Path) -> None:
    source = open_folder(whole).source
    for _ in range(2):
        source.fetch("model.safetensors")
        assert bytes_of(source, A[0]) == values(*A).tobytes()
        source.release("model.safetensors")
    source.release("model.safetensors")
    source.close()


def test_closing_leaves_no_descriptor_open(sharded: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counted only
    source = open_folder(sharded).source
    bytes_of(source, A[0])
    bytes_of(source, B[0])
    assert len(os.listdir("/proc/self/fd")) == before + 2  # noqa: PTH208 - counted only
    source.close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 - counted only


@pytest.mark.parametrize(("offset", "n_bytes"), [(-1, 4), (57, 4), (0, 61), (1 << 62, 1)])
def test_reading_outside_a_tensor_is_refused(whole: Path, offset: int, n_bytes: int) -> None:
    source = open_folder(whole).source
    with pytest.raises(InvalidCheckpoint, match=r"a\.weight has 60 bytes"):
        source.read(source.tensors[A[0]], offset, memoryview(bytearray(n_bytes)))


# What is refused -----------------------------------------------------------------------------------------


def _link_to(target: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "model.safetensors"
        outside = folder.parent / "outside.safetensors"
        path.rename(outside)
        path.symlink_to(target)

    return change


def _fifo(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return change


def _folder_instead(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()


def _config_outside(folder: Path) -> None:
    (folder / "config.json").rename(folder.parent / "config.json")
    (folder / "config.json").symlink_to("../config.json")


def _huge_config(folder: Path) -> None:
    (folder / "config.json").write_bytes(b" " * ((16 << 20) + 1))


def _text(name: str, text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_text(text)

    return change


def _config(**values: object) -> Callable[[Path], None]:
    return _text("config.json", json.dumps(CONFIG | values))


def _index(weight_map: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        write_index(folder, weight_map)

    return change


def _nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


HOSTILE_WHOLE: dict[str, tuple[Callable[[Path], None], str]] = {
    "weights behind a link out of the folder": (
        _link_to("../outside.safetensors"),
        "leads out of the folder",
    ),
    "weights behind an absolute link": (_link_to("/etc/passwd"), "leads out of the folder"),
    "weights behind a link to a device": (_link_to("/dev/zero"), "leads out of the folder"),
    "weights behind a circle of links": (_link_to("model.safetensors"), "cannot be followed"),
    "weights that are a FIFO": (_fifo("model.safetensors"), "not a regular file"),
    "weights that are a folder": (_folder_instead, "not a regular file"),
    "weights of zero bytes": (_text("model.safetensors", ""), "0 bytes, too few"),
    "weights that are a Git LFS pointer": (
        _text("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        "claims a header of",
    ),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "configuration that is a FIFO": (_fifo("config.json"), "not a regular file"),
    "configuration behind a link out": (_config_outside, "leads out of the folder"),
    "configuration of 16 MiB": (_huge_config, "more than 16777216 bytes"),
    "configuration that is no JSON": (_text("config.json", "import os"), "valid JSON"),
    "configuration that is an array": (_text("config.json", "[1]"), "JSON object"),
    "configuration with a key twice": (_text("config.json", '{"a": 1, "a": 2}'), "a key occurs twice"),
    "configuration nested 100 deep": (_config(a=_nested(100)), "nested more than 32 deep"),
    "configuration nested 100,000 deep": (_text("config.json", '{"a":' * 100_000), "valid JSON"),
    "2,000 layers": (_config(num_hidden_layers=2000), "num_hidden_layers as 2000"),
    "-1 layers": (_config(num_hidden_layers=-1), "num_hidden_layers as -1"),
    "5,000 experts": (_config(num_local_experts=5000), "num_local_experts as 5000"),
    "10,000,000 tokens": (_config(vocab_size=10_000_000), "vocab_size as 10000000"),
    "2,000 layers in text_config": (_config(text_config={"num_hidden_layers": 2000}), "as 2000"),
    "a number beyond 64 bits": (_config(rope_theta=10**30), "rope_theta as 1000000"),
    "a key with an escape sequence": (_config(**{"\x1b[2Ja": 10**30}), r"\[2Ja as 1000000"),
    "a tokenizer behind a link out": (
        lambda folder: (folder / "tokenizer.json").symlink_to("/etc/hostname"),
        "leads out of the folder",
    ),
    "an index whose shard is missing": (_index({A[0]: FIRST}), f"missing in .*: {FIRST}"),
}


@pytest.mark.parametrize("fault", HOSTILE_WHOLE)
def test_a_damaged_or_hostile_folder_is_refused(whole: Path, fault: str) -> None:
    change, expected = HOSTILE_WHOLE[fault]
    change(whole)
    refused(whole, expected)


HOSTILE_INDEX: dict[str, tuple[Callable[[Path], None], str]] = {
    "climbs out": (_index({A[0]: "../" + FIRST, B[0]: SECOND}), "no shard beside it"),
    "absolute": (_index({A[0]: "/etc/passwd.safetensors", B[0]: SECOND}), "no shard beside it"),
    "in a subfolder": (_index({A[0]: f"x/{FIRST}", B[0]: SECOND}), "no shard beside it"),
    "a pickle": (_index({A[0]: "pytorch_model.bin", B[0]: SECOND}), "no shard beside it"),
    "no text": (_index({A[0]: 7, B[0]: SECOND}), "no shard beside it"),
    "with a NUL": (_index({A[0]: "a\0.safetensors", B[0]: SECOND}), "no shard beside it"),
    "with an escape sequence": (_index({A[0]: "a\x1b[2J.safetensors", B[0]: SECOND}), "no shard beside it"),
    "a name of 300 bytes": (_index({A[0]: "a" * 300 + ".safetensors", B[0]: SECOND}), "no shard beside it"),
    "hidden": (_index({A[0]: ".safetensors", B[0]: SECOND}), "no shard beside it"),
    "no weight_map": (_text(INDEX, "{}"), "no weight_map"),
    "weight_map that is a list": (_index([FIRST]), "no weight_map"),
    "empty weight_map": (_index({}), "no weight_map"),
    "no JSON": (_text(INDEX, "{"), "valid JSON"),
    "a tensor twice": (_text(INDEX, f'{{"weight_map": {{"a": "{FIRST}", "a": "{SECOND}"}}}}'), "twice"),
    "a tensor that nobody has": (_index({A[0]: FIRST, "c.weight": SECOND}), "do not have: c.weight"),
    "a tensor in another shard": (_index({A[0]: SECOND, B[0]: FIRST}), "names 2 tensors"),
    "a shard that is missing": (lambda folder: (folder / SECOND).unlink(), f"1 of the 2 .*: {SECOND}"),
    "a tensor in both shards": (
        lambda folder: write_safetensors(folder / SECOND, [A, B]),
        f"a.weight is in {FIRST} and in {SECOND}",
    ),
}


@pytest.mark.parametrize("fault", HOSTILE_INDEX)
def test_an_index_that_does_not_fit_its_shards_is_refused(sharded: Path, fault: str) -> None:
    change, expected = HOSTILE_INDEX[fault]
    change(sharded)
    refused(sharded, expected)


def refused(folder: Path, expected: str) -> None:
    with pytest.raises(InvalidCheckpoint, match=expected) as caught:
        open_folder(folder)
    assert caught.value.message.isprintable()


def test_without_an_index_a_missing_shard_is_known_by_the_numbers_of_the_others(sharded: Path) -> None:
    (sharded / INDEX).unlink()
    (sharded / FIRST).unlink()
    with pytest.raises(InvalidCheckpoint, match=f"1 of the 2 shards are missing in .*: {FIRST}"):
        open_folder(sharded)


def test_a_link_out_of_a_hub_snapshot_that_is_not_to_a_blob_is_refused(whole: Path, tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path, whole)
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(whole / "model.safetensors")
    refused(snapshot, "leads out of the folder")


def test_a_folder_that_only_calls_itself_a_snapshot_is_none(whole: Path, tmp_path: Path) -> None:
    pretended = tmp_path / "models--acme--x" / "snapshots" / "main"
    pretended.parent.mkdir(parents=True)
    whole.rename(pretended)
    (pretended / "model.safetensors").rename(tmp_path / "models--acme--x" / "weights")
    (pretended / "model.safetensors").symlink_to("../../weights")
    refused(pretended, "leads out of the folder")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickled_weights_are_refused_with_the_reason_and_a_way_out(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04")
    write_json(tmp_path / "config.json", CONFIG)
    with pytest.raises(UnsupportedCheckpoint, match="unpickling runs whatever code is in the file") as caught:
        open_folder(tmp_path)
    assert "safetensors" in caught.value.hint


def test_an_adapter_alone_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "adapter_config.json", {})
    write_safetensors(tmp_path / "adapter_model.safetensors", [A])
    with pytest.raises(UnsupportedCheckpoint, match="an adapter, not a model"):
        open_folder(tmp_path)


def test_weights_in_mistrals_own_layout_alone_are_not_called_missing(tmp_path: Path) -> None:
    write_json(tmp_path / "params.json", {})
    write_safetensors(tmp_path / "consolidated.safetensors", [A])
    with pytest.raises(UnsupportedCheckpoint, match="Mistral's own layout only"):
        open_folder(tmp_path)


def test_a_folder_with_a_gguf_points_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(UnsupportedCheckpoint, match="holds a GGUF") as caught:
        open_folder(tmp_path)
    assert ".gguf" in caught.value.hint


def test_an_empty_folder_and_no_folder_are_not_found(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="holds no safetensors"):
        open_folder(tmp_path)
    with pytest.raises(ModelNotFound, match="There is no folder"):
        open_folder(tmp_path / "missing")
    with pytest.raises(ModelNotFound, match="There is no folder"):
        open_folder(tmp_path / "with\0nul")


@pytest.mark.parametrize(
    "method", ["awq", "gptq", "bitsandbytes", "compressed-tensors", "torchao", "\x1b[2J"]
)
@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_a_quantisation_that_cannot_be_read_is_named(whole: Path, method: str, key: str) -> None:
    _config(**{key: {"quant_method": method, "bits": 4}})(whole)
    with pytest.raises(UnsupportedCheckpoint, match="already quantised by") as caught:
        open_folder(whole)
    assert method.strip("\x1b") in caught.value.message
    assert caught.value.message.isprintable()


def test_a_quantisation_of_the_language_model_inside_another_is_seen(whole: Path) -> None:
    _config(text_config={"quantization_config": {"quant_method": "gptq"}})(whole)
    with pytest.raises(UnsupportedCheckpoint, match="gptq"):
        open_folder(whole)


def test_what_mlx_quantised_is_refused(whole: Path) -> None:
    _config(quantization={"group_size": 64, "bits": 4})(whole)
    with pytest.raises(UnsupportedCheckpoint, match="MLX"):
        open_folder(whole)


@pytest.mark.parametrize("method", ["fp8", "mxfp4"])
def test_blocks_of_fp8_and_mxfp4_are_readable(whole: Path, method: str) -> None:
    _config(quantization_config={"quant_method": method})(whole)
    assert open_folder(whole).config["quantization_config"]["quant_method"] == method


@pytest.mark.parametrize("name", ["config.json", INDEX, FIRST])
def test_a_file_cut_anywhere_is_a_checkpoint_or_one_clear_error(sharded: Path, name: str) -> None:
    data = (sharded / name).read_bytes()
    for length in range(len(data)):
        (sharded / name).write_bytes(data[:length])
        with pytest.raises(EdgeappError):
            open_folder(sharded)


def test_json_of_any_depth_and_any_garbage_is_an_error_of_ours() -> None:
    for garbage in (b"", b"\xff\xfe", b"nul", b"{" * 500_000, b'{"a":' * 100_000, b"NaN", b'"text"', b"7"):
        with pytest.raises(InvalidCheckpoint):
            parse_object(garbage, what="x.json")

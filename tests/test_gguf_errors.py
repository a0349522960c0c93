"""Every file that is no model is refused with a sentence that says what is wrong, and a hint."""

from __future__ import annotations

import os
import shutil
import struct
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from edgeapp.errors import InvalidModel, ModelError, ModelNotFound, ModelUnreadable, UnsupportedModel
from edgeapp.gguf_info import read_gguf_info
from tests.gguf_bytes import (
    BOOL,
    F32,
    I32,
    STRING,
    U16,
    U32,
    GgufBytes,
    TensorSpec,
    Value,
    array,
    model_keys,
    number,
    raw_array,
    string_bytes,
    text,
)
from tests.tiny_moe import write_tiny_moe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOBODY = 65534


def refusal(path: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        read_gguf_info(path)
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value


def refusal_of(folder: Path, data: bytes | GgufBytes) -> ModelError:
    path = folder / "model.gguf"
    path.write_bytes(data.encode() if isinstance(data, GgufBytes) else data)
    return refusal(path)


def with_keys(**changes: Value | None) -> GgufBytes:
    return GgufBytes(keys=list(model_keys(**changes).items()))


def with_tensors(*tensors: TensorSpec) -> GgufBytes:
    return GgufBytes(tensors=tensors)


# What is not a GGUF ----------------------------------------------------------------------------------------

SAFETENSORS = (
    struct.pack("<Q", 60) + b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}      ' + bytes(4)
)
FOREIGN = {
    "safetensors checkpoint": SAFETENSORS,
    "zip archive or Python pickle": b"PK\x03\x04" + bytes(60),
    "Python pickle": b"\x80\x02}q\x00." + bytes(60),
    "web page": b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>",
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "the format that came before GGUF": b"tjgg" + bytes(60),
    "begins with zeros": bytes(4096),
    "begins with 68 65 6c 6c": b"hello, I am text",
    "begins with 47": b"G",
    "is empty": b"",
}


@pytest.mark.parametrize("sentence", FOREIGN)
def test_a_foreign_file_is_called_by_its_name(tmp_path: Path, sentence: str) -> None:
    problem = refusal_of(tmp_path, FOREIGN[sentence])
    assert isinstance(problem, InvalidModel)
    assert sentence in problem.message


# What cannot be opened -------------------------------------------------------------------------------------


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    problem = refusal(tmp_path / "nope.gguf")
    assert isinstance(problem, ModelNotFound)
    assert "nope.gguf" in problem.message


def test_a_path_through_a_file_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert isinstance(refusal(tmp_path / "file" / "model.gguf"), ModelNotFound)


def test_a_null_byte_in_a_path_is_not_found(tmp_path: Path) -> None:
    assert isinstance(refusal(tmp_path / "a\0b.gguf"), ModelNotFound)


def test_a_folder_is_unreadable_and_the_hint_lists_its_models(tmp_path: Path) -> None:
    (tmp_path / "inside.gguf").touch()
    problem = refusal(tmp_path)
    assert isinstance(problem, ModelUnreadable)
    assert "is a folder" in problem.message
    assert "inside.gguf" in problem.hint


def test_a_folder_without_models_is_unreadable(tmp_path: Path) -> None:
    assert refusal(tmp_path).hint == "Give the path of a .gguf file."


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    problem = refusal(tmp_path / "pipe.gguf")
    assert isinstance(problem, ModelUnreadable)
    assert "not a regular file" in problem.message


def test_a_loop_of_links_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "loop.gguf").symlink_to(tmp_path / "loop.gguf")
    problem = refusal(tmp_path / "loop.gguf")
    assert isinstance(problem, ModelUnreadable)
    assert "cannot be opened" in problem.message


@contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Root may read everything, so become somebody else while a permission is tested."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_without_permission_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "secret.gguf"
    path.write_bytes(GgufBytes().encode())
    path.chmod(0)
    with as_ordinary_user():
        problem = refusal(path)
    assert isinstance(problem, ModelUnreadable)
    assert "no permission" in problem.message


def test_control_characters_of_a_file_name_do_not_reach_the_terminal(tmp_path: Path) -> None:
    problem = refusal(tmp_path / "evil\x1b]0;title\x07\u202e.gguf")
    assert "\x1b" not in problem.message
    assert "\u202e" not in problem.message


# Truncated files -------------------------------------------------------------------------------------------


def test_a_file_cut_in_its_weights_says_how_much_is_missing(tmp_path: Path) -> None:
    problem = refusal_of(tmp_path, GgufBytes().encode()[:-100])
    assert isinstance(problem, InvalidModel)
    assert "at least 100 more are missing" in problem.message


def test_a_file_cut_in_its_header_is_truncated(tmp_path: Path) -> None:
    data = GgufBytes().encode()
    for length in range(4, len(data) - 128, 7):
        assert "is truncated" in refusal_of(tmp_path, data[:length]).message


def test_the_padding_after_the_last_tensor_may_be_missing(tmp_path: Path) -> None:
    tensor = TensorSpec(shape=(8, 3), n_bytes=96)
    path = tmp_path / "model.gguf"
    keys = list(model_keys(general__alignment=number(64)).items())
    path.write_bytes(GgufBytes(keys=keys, tensors=(tensor,), alignment_bytes=64).encode()[:-32])
    assert read_gguf_info(path).tensor_bytes == 96


# Versions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "sentence"),
    [(1, "version 1, which"), (4, "version 4; versions 2 and 3"), (0, "version 0"), (3 << 24, "big-endian")],
)
def test_other_versions_are_unsupported(tmp_path: Path, version: int, sentence: str) -> None:
    problem = refusal_of(tmp_path, GgufBytes(version=version))
    assert isinstance(problem, UnsupportedModel)
    assert sentence in problem.message


# Other kinds of GGUF ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"general.architecture": text("clip")}, "multimodal projector"),
        ({"general.architecture": text("clip"), "general.type": text("mmproj")}, "multimodal projector"),
        ({"general.architecture": text("llama"), "general.type": text("adapter")}, "LoRA adapter"),
        ({"general.type": text("imatrix")}, "importance matrix"),
        (
            {"general.architecture": text("llama"), "general.type": text("vocab")},
            "vocabulary without weights",
        ),
    ],
)
def test_other_kinds_of_gguf_are_called_by_their_name(
    tmp_path: Path, keys: dict[str, Value], sentence: str
) -> None:
    problem = refusal_of(tmp_path, GgufBytes(keys=list(keys.items())))
    assert isinstance(problem, UnsupportedModel)
    assert sentence in problem.message
    assert "it is not a model" in problem.message


def test_an_unknown_architecture_is_unsupported(tmp_path: Path) -> None:
    problem = refusal_of(tmp_path, with_keys(general__architecture=text("llama-of-nowhere")))
    assert isinstance(problem, UnsupportedModel)
    assert '"llama-of-nowhere"' in problem.message


def test_an_unknown_tokenizer_is_unsupported(tmp_path: Path) -> None:
    problem = refusal_of(tmp_path, with_keys(tokenizer__ggml__model=text("homemade")))
    assert isinstance(problem, UnsupportedModel)
    assert '"homemade"' in problem.message


# Hostile or damaged headers --------------------------------------------------------------------------------

HUGE = string_bytes("x" * (1 << 16)) + string_bytes("x" * (1 << 16) + "x")
MANY = (1 << 16) + 1
WIDE = TensorSpec(shape=(1 << 62, 4))
EXPERTS = {"llama__expert_count": number(4), "llama__expert_used_count": number(2)}
INVALID: dict[str, GgufBytes] = {
    f"claims {MANY} keys": GgufBytes(n_keys=MANY),
    f"claims {MANY} tensors": GgufBytes(n_tensors=MANY),
    "the name of key 0 claims 65536 bytes": GgufBytes(keys=[("k" * 65536, number(1))]),
    "key 0 has no name": GgufBytes(keys=[("", number(1))]),
    "the key general.name appears twice": GgufBytes(keys=[("general.name", text("a"))] * 2),
    "general.name claims 1048577 bytes": with_keys(general__name=text("x" * 1048577)),
    "general.name is not a string": with_keys(general__name=number(1)),
    "odd has the unknown type 13": with_keys(odd=Value(type_id=13, payload=bytes(64))),
    "nested has the unknown type 9": with_keys(nested=raw_array(9, 1, bytes(64))),
    "long claims 4000001 elements": with_keys(long=raw_array(0, 4_000_001, bytes(4_000_001))),
    "a string in tokenizer.ggml.tokens claims 65537": with_keys(
        tokenizer__ggml__tokens=raw_array(STRING, 2, HUGE)
    ),
    "general.alignment must be a power of two": with_keys(general__alignment=number(48)),
    "general.alignment must be a power of two of at most 65536": with_keys(
        general__alignment=number(1 << 17)
    ),
    "the name of tensor 0 claims 64 bytes": with_tensors(TensorSpec(name="t" * 64)),
    "has 5 dimensions": with_tensors(TensorSpec(n_dims=5)),
    "has the impossible shape": with_tensors(WIDE),
    "has the impossible shape (8, 0)": with_tensors(TensorSpec(shape=(8, 0))),
    "has the type 31, which is unknown or was removed": with_tensors(TensorSpec(type_id=31)),
    "has rows of 8 values, which Q4_0 cannot hold": with_tensors(TensorSpec(type_id=2)),
    "the tensor token_embd.weight appears twice": with_tensors(TensorSpec(), TensorSpec()),
    "lies at offset 64, expected 0": with_tensors(TensorSpec(offset_bytes=64)),
    "lies at offset 0, expected 128": with_tensors(TensorSpec(), TensorSpec(name="b", offset_bytes=0)),
    "does not name its architecture": with_keys(general__architecture=None),
    "does not say llama.block_count": with_keys(llama__block_count=None),
    "llama.block_count is 0; 1 to 512 make sense": with_keys(llama__block_count=number(0)),
    "llama.block_count is 513": with_keys(llama__block_count=number(513)),
    "llama.block_count is not an integer": with_keys(llama__block_count=number(2.0, F32)),
    "llama.context_length is 4294967295": with_keys(llama__context_length=number(0xFFFF_FFFF)),
    "llama.embedding_length is 0": with_keys(llama__embedding_length=number(0)),
    "llama.attention.head_count is -1": with_keys(llama__attention__head_count=number(-1, I32)),
    "head_count has 3 values for 2 layers": with_keys(llama__attention__head_count=array(U32, [1, 1, 1])),
    "head_count has 513 values; at most 512": with_keys(llama__attention__head_count=array(U32, [1] * 513)),
    "head_count does not hold integers": with_keys(llama__attention__head_count=array(F32, [1.0, 1.0])),
    "4 key-value heads serve 2": with_keys(llama__attention__head_count_kv=number(4)),
    "5 of 4 experts": with_keys(**EXPERTS | {"llama__expert_used_count": number(5)}),
    "0 of 4 experts": with_keys(llama__expert_count=number(4)),
    "2 of 0 experts": with_keys(llama__expert_used_count=number(2)),
    "llama.expert_count is 1025": with_keys(llama__expert_count=number(1025)),
    "4 groups for 4 experts": with_keys(**EXPERTS, llama__expert_group_count=number(4)),
    "0 of 2 expert groups": with_keys(**EXPERTS, llama__expert_group_count=number(2)),
    "nextn_predict_layers is 3": with_keys(llama__nextn_predict_layers=number(3)),
    "layer_norm_rms_epsilon is -1.0": with_keys(llama__attention__layer_norm_rms_epsilon=number(-1.0, F32)),
    "layer_norm_epsilon is nan": with_keys(llama__attention__layer_norm_epsilon=number(float("nan"), F32)),
    "carries no tokenizer": with_keys(tokenizer__ggml__model=None),
    "carries no tokens": with_keys(tokenizer__ggml__tokens=None),
    "tokenizer.ggml.tokens is not an array": with_keys(tokenizer__ggml__tokens=text("abc")),
    "tokenizer.ggml.tokens has 4 elements of type 5": with_keys(
        tokenizer__ggml__tokens=array(I32, [1, 2, 3, 4])
    ),
    "tokenizer.ggml.scores has 3 elements": with_keys(tokenizer__ggml__scores=array(F32, [0.0] * 3)),
    "token_type has 4 elements of type 2": with_keys(tokenizer__ggml__token_type=array(U16, [1] * 4)),
    "token_type has 0 elements": with_keys(tokenizer__ggml__token_type=array(I32, [])),
    "merges has 1 elements of type 4": with_keys(tokenizer__ggml__merges=array(U32, [1])),
    "eos_token_id is 4, but there are 4 tokens": with_keys(tokenizer__ggml__eos_token_id=number(4)),
    "token_id is not an integer": with_keys(tokenizer__ggml__odd_token_id=text("2")),
    'token 3 stands for a byte but reads "<0x0a>"': with_keys(
        tokenizer__ggml__tokens=array(STRING, ["a", "b", "c", "<0x0a>"])
    ),
    'token 0 stands for a byte but reads ""': with_keys(
        tokenizer__ggml__tokens=array(STRING, ["", "b", "c", "<0x0A>"]),
        tokenizer__ggml__token_type=array(I32, [6, 1, 1, 6]),
    ),
    "holds no weights": GgufBytes(tensors=()),
    "general.file_type is not an integer": with_keys(general__file_type=text("3")),
}


@pytest.mark.parametrize("sentence", INVALID)
def test_a_bad_header_is_invalid(tmp_path: Path, sentence: str) -> None:
    problem = refusal_of(tmp_path, INVALID[sentence])
    assert isinstance(problem, InvalidModel)
    assert sentence in problem.message


def test_a_header_that_does_not_end_within_256_mib_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    blob = raw_array(0, 4_000_000, b"").payload
    with path.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, 0, 100))
        for index in range(100):
            file.write(string_bytes(f"k{index:03d}") + struct.pack("<I", 9) + blob)
            file.seek(4_000_000, os.SEEK_CUR)
        file.truncate(file.tell())
    assert "does not end within 256 MiB" in refusal(path).message


def test_values_at_their_limits_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    edge = with_keys(
        general__name=text("x" * (1 << 20)),
        llama__block_count=number(512),
        flag=number(1, BOOL),
        bytes=raw_array(0, 4_000_000, bytes(4_000_000)),
    )
    path.write_bytes(replace(edge, tensors=(TensorSpec(name="t" * 63),)).encode())
    assert read_gguf_info(path).n_layer == 512


# Split models ----------------------------------------------------------------------------------------------


@pytest.fixture
def split(tmp_path: Path) -> list[Path]:
    write_tiny_moe(tmp_path / "m.gguf", split_max_tensors=8)
    return sorted(tmp_path.glob("m-*.gguf"))


@pytest.mark.parametrize("opened", [0, 1, 2])
def test_missing_parts_are_named_whichever_part_is_opened(split: list[Path], opened: int) -> None:
    split[1].unlink()
    problem = refusal(split[opened])
    assert isinstance(problem, ModelNotFound)
    assert "1 of the model's 3 parts are missing: m-00002-of-00003.gguf" in problem.message
    assert str(split[0].parent) in problem.hint


def test_a_long_list_of_missing_parts_is_cut(tmp_path: Path) -> None:
    keys = model_keys(split__no=number(0, U16), split__count=number(900, U16))
    path = tmp_path / "m-00001-of-00900.gguf"
    path.write_bytes(GgufBytes(keys=list(keys.items())).encode())
    problem = refusal(path)
    assert "899 of the model's 900 parts are missing" in problem.message
    assert "m-00006-of-00900.gguf and 894 more" in problem.message


def test_a_renamed_part_is_told_its_name(split: list[Path]) -> None:
    renamed = split[1].rename(split[1].with_name("other.gguf"))
    problem = refusal(renamed)
    assert "says it is part 2 of 3, but its name does not" in problem.message
    assert "00002-of-00003" in problem.hint


def test_parts_in_the_wrong_order_are_refused(split: list[Path]) -> None:
    shutil.copyfile(split[2], split[1])
    assert "is not part 2 of 3 as its name says" in refusal(split[0]).message


def test_parts_of_different_models_are_refused(split: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_tiny_moe(other / "m.gguf", n_layer=3, split_max_tensors=11)
    shutil.copyfile(other / "m-00002-of-00003.gguf", split[1])
    assert "hold 25 tensors instead of 22" in refusal(split[0]).message


def test_a_tensor_in_two_parts_is_refused(tmp_path: Path) -> None:
    counts = {"split__count": number(2, U16), "split__tensors__count": number(2, I32)}
    for index in range(2):
        keys = model_keys(split__no=number(index, U16), **counts)
        path = tmp_path / f"m-{index + 1:05d}-of-00002.gguf"
        path.write_bytes(GgufBytes(keys=list(keys.items())).encode())
    assert "repeat a tensor" in refusal(tmp_path / "m-00002-of-00002.gguf").message


def test_a_truncated_part_is_named(split: list[Path]) -> None:
    os.truncate(split[2], split[2].stat().st_size - 64)
    problem = refusal(split[0])
    assert "m-00003-of-00003.gguf is truncated" in problem.message


def test_a_name_like_a_part_alone_does_not_make_a_split(tmp_path: Path) -> None:
    path = tmp_path / "m-00001-of-00002.gguf"
    path.write_bytes(GgufBytes().encode())
    assert read_gguf_info(path).parts == (path,)

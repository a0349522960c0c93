"""The numbers that inspect shows agree with gguf's own reader and with arithmetic done by hand."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError
from typing import TYPE_CHECKING

import pytest
from gguf import GGUFReader

from edgeapp.gguf_info import GgufInfo, read_gguf_info
from tests.gguf_bytes import (
    BOOL,
    F32,
    I32,
    U32,
    GgufBytes,
    TensorSpec,
    Value,
    array,
    model_keys,
    number,
    text,
)
from tests.tiny_moe import CHATML, demo_model_path, write_tiny_moe

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, *tensors: TensorSpec, **changes: Value | None) -> Path:
    specs = tensors or (TensorSpec(),)
    path.write_bytes(GgufBytes(keys=list(model_keys(**changes).items()), tensors=specs).encode())
    return path


def read(path: Path, *tensors: TensorSpec, **changes: Value | None) -> GgufInfo:
    return read_gguf_info(write(path / "model.gguf", *tensors, **changes))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_moe(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="module", params=["tiny", "demo"])
def both(request: pytest.FixtureRequest, tiny: Path) -> tuple[GgufInfo, GGUFReader]:
    path = tiny if request.param == "tiny" else demo_model_path()
    return read_gguf_info(path), GGUFReader(path)


def test_totals_agree_with_gguf_reader(both: tuple[GgufInfo, GGUFReader]) -> None:
    info, reader = both
    assert info.parameters == sum(int(tensor.n_elements) for tensor in reader.tensors)
    assert info.tensor_bytes == sum(int(tensor.n_bytes) for tensor in reader.tensors)
    assert info.bits_per_weight == info.tensor_bytes * 8 / info.parameters


def test_the_mix_of_types_agrees_with_gguf_reader(both: tuple[GgufInfo, GGUFReader]) -> None:
    info, reader = both
    for share in info.tensor_types:
        group = [tensor for tensor in reader.tensors if tensor.tensor_type.name == share.name]
        assert share.count == len(group)
        assert share.parameters == sum(int(tensor.n_elements) for tensor in group)
        assert share.bytes == sum(int(tensor.n_bytes) for tensor in group)
    assert sum(share.bytes for share in info.tensor_types) == info.tensor_bytes
    assert [share.bytes for share in info.tensor_types] == sorted(
        (share.bytes for share in info.tensor_types), reverse=True
    )


def test_expert_bytes_and_active_parameters_agree_with_gguf_reader(
    both: tuple[GgufInfo, GGUFReader],
) -> None:
    info, reader = both
    experts = [tensor for tensor in reader.tensors if "_exps." in tensor.name]
    idle = sum(int(tensor.n_elements) for tensor in experts) // 2  # 2 of 4 experts
    assert info.expert_bytes == sum(int(tensor.n_bytes) for tensor in experts)
    assert info.dense_bytes == info.tensor_bytes - info.expert_bytes
    assert info.active_parameters == info.parameters - idle


def test_keys_agree_with_gguf_reader(both: tuple[GgufInfo, GGUFReader]) -> None:
    info, reader = both

    def value(key: str) -> object:
        field = reader.get_field(key)
        return None if field is None else field.contents()

    assert info.arch == value("general.architecture")
    assert info.name == value("general.name")
    assert info.license == value("general.license")
    assert info.n_layer == value("llama.block_count")
    assert info.n_embd == value("llama.embedding_length")
    assert info.n_head == value("llama.attention.head_count")
    assert info.n_head_kv == value("llama.attention.head_count_kv")
    assert info.head_dim_k == info.head_dim_v == value("llama.rope.dimension_count")
    assert info.n_ctx_train == value("llama.context_length")
    assert info.n_vocab == value("llama.vocab_size")
    assert info.tokenizer == value("tokenizer.ggml.model")
    assert info.tokenizer_pre == value("tokenizer.ggml.pre")
    template = value("tokenizer.chat_template")
    assert isinstance(template, str)
    assert info.chat_template_sha256 == hashlib.sha256(template.encode()).hexdigest()


def test_the_demo_model_is_what_it_is_known_to_be() -> None:
    info = read_gguf_info(demo_model_path())
    assert info.file_bytes == demo_model_path().stat().st_size == 98_362_432
    assert info.parameters == info.active_parameters == 134_515_008
    assert not info.is_moe
    assert round(info.bits_per_weight, 2) == 5.74
    assert info.quantization == "Q4_1 mostly"
    assert info.author == "HuggingFaceTB"
    assert info.source == ""
    assert info.kv_bytes_per_token == 30 * 3 * (64 + 64) * 2


def test_the_tiny_moe_uses_two_of_four_experts(tiny: Path) -> None:
    info = read_gguf_info(tiny)
    assert (info.n_expert, info.n_expert_used, info.is_moe) == (4, 2, True)
    assert info.has_chat_template
    assert info.chat_template_sha256 == hashlib.sha256(CHATML.encode()).hexdigest()


def test_a_model_without_template_says_so(tmp_path: Path) -> None:
    info = read_gguf_info(write_tiny_moe(tmp_path / "bare.gguf", chat_template=None))
    assert not info.has_chat_template
    assert info.chat_template_sha256 == ""


def test_a_split_model_has_the_numbers_of_the_whole(tmp_path: Path) -> None:
    whole = read_gguf_info(write_tiny_moe(tmp_path / "whole.gguf"))
    first = write_tiny_moe(tmp_path / "parts.gguf", split_max_tensors=8)
    info = read_gguf_info(first)
    assert info.is_split
    assert not whole.is_split
    assert len(info.parts) == 3
    assert info.parameters == whole.parameters
    assert info.active_parameters == whole.active_parameters
    assert info.tensor_types == whole.tensor_types
    assert info.file_bytes == sum(part.stat().st_size for part in tmp_path.glob("parts-*"))


def test_any_part_opens_the_whole_and_the_first_part_is_the_path_to_load(tmp_path: Path) -> None:
    first = write_tiny_moe(tmp_path / "parts.gguf", split_max_tensors=8)
    infos = {read_gguf_info(part) for part in tmp_path.glob("parts-*")}
    assert len(infos) == 1
    assert infos.pop().path == first


def test_shared_experts_and_expert_norms_count_in_full(tmp_path: Path) -> None:
    info = read(
        tmp_path,
        TensorSpec(name="blk.0.ffn_up_exps.weight", shape=(8, 2, 4), n_bytes=256),
        TensorSpec(name="blk.0.ffn_up_shexp.weight", shape=(8, 4)),
        TensorSpec(name="blk.0.ffn_norm_exps.weight", shape=(8,), n_bytes=32),
        llama__expert_count=number(4),
        llama__expert_used_count=number(1),
    )
    assert info.parameters == 64 + 32 + 8
    assert info.active_parameters == 16 + 32 + 8
    assert info.expert_bytes == 256


def test_every_layer_may_use_its_own_number_of_experts(tmp_path: Path) -> None:
    info = read(
        tmp_path,
        TensorSpec(name="blk.0.ffn_up_exps.weight", shape=(8, 2, 4), n_bytes=256),
        TensorSpec(name="blk.1.ffn_up_exps.weight", shape=(8, 2, 4), n_bytes=256),
        llama__expert_count=number(4),
        llama__expert_used_count=array(U32, [1, 3]),
    )
    assert info.active_parameters == 16 + 48
    assert info.n_expert_used == 3


def test_heads_of_every_layer_make_up_the_kv_cache(tmp_path: Path) -> None:
    info = read(
        tmp_path,
        llama__attention__head_count=number(4),
        llama__attention__head_count_kv=array(I32, [4, 2]),
        llama__attention__key_length=number(16),
        llama__attention__value_length=number(8),
    )
    assert info.n_head_kv == 4
    assert info.kv_bytes_per_token == (4 + 2) * (16 + 8) * 2


def test_layers_for_multi_token_prediction_keep_no_cache(tmp_path: Path) -> None:
    plain = read(tmp_path).kv_bytes_per_token
    assert plain is not None
    assert read(tmp_path, llama__nextn_predict_layers=number(1)).kv_bytes_per_token == plain // 2


@pytest.mark.parametrize(
    "changes",
    [
        {"llama__attention__causal": number(0, BOOL)},
        {"llama__attention__head_count": number(0)},
    ],
    ids=["encoder", "no attention"],
)
def test_without_attention_nothing_is_kept_of_a_token(
    tmp_path: Path, changes: dict[str, Value | None]
) -> None:
    assert read(tmp_path, **changes).kv_bytes_per_token is None


def test_a_recurrent_model_has_no_kv_cache_per_token(tmp_path: Path) -> None:
    keys = {
        "general__architecture": text("mamba"),
        "mamba__block_count": number(2),
        "mamba__context_length": number(64),
        "mamba__embedding_length": number(8),
    }
    assert read(tmp_path, **keys).kv_bytes_per_token is None


def test_texts_from_the_file_are_cleaned_for_the_terminal(tmp_path: Path) -> None:
    info = read(
        tmp_path,
        general__name=text("evil\x1b]52;c;aGk=\x07\u202ename\nsecond line"),
        general__author=text(b"\xff\xfebytes"),
        general__license=text("x" * 5000),
        general__sampling__sequence=text("top_k\x1b[2J"),
    )
    assert info.name == "evil]52;c;aGk=name second line"
    assert "\x1b" not in repr(info)
    assert info.author == "��bytes"
    assert len(info.license) == 200
    assert info.sampling == (("sequence", "top_k[2J"),)


def test_sampling_advice_is_passed_on_without_what_is_no_number(tmp_path: Path) -> None:
    info = read(
        tmp_path,
        general__sampling__temp=number(0.5, F32),
        general__sampling__top_k=number(20, I32),
        general__sampling__top_p=number(float("nan"), F32),
        general__sampling__odd=array(U32, [1]),
    )
    assert info.sampling == (("temp", 0.5), ("top_k", 20))


def test_the_source_is_the_first_that_is_given(tmp_path: Path) -> None:
    base = text("https://huggingface.co/base/model")
    assert read(tmp_path, general__base_model__0__repo_url=base).source == "https://huggingface.co/base/model"
    both = read(tmp_path, general__base_model__0__repo_url=base, general__repo_url=text("https://own"))
    assert both.source == "https://own"


def test_another_alignment_is_followed(tmp_path: Path) -> None:
    keys = list(model_keys(general__alignment=number(256)).items())
    tensors = (TensorSpec(), TensorSpec(name="output.weight"))
    path = tmp_path / "aligned.gguf"
    path.write_bytes(GgufBytes(keys=keys, tensors=tensors, alignment_bytes=256).encode())
    assert read_gguf_info(path).alignment_bytes == 256


def test_version_2_is_read(tmp_path: Path) -> None:
    path = tmp_path / "v2.gguf"
    path.write_bytes(GgufBytes(version=2).encode())
    assert read_gguf_info(path).gguf_version == 2


def test_an_unset_special_token_is_allowed(tmp_path: Path) -> None:
    assert read(tmp_path, tokenizer__ggml__bos_token_id=number(0xFFFF_FFFF)).n_vocab == 4


def test_info_cannot_be_changed(tiny: Path) -> None:
    info = read_gguf_info(tiny)
    with pytest.raises(FrozenInstanceError):
        info.arch = "other"  # type: ignore[misc]


def test_reading_a_header_imports_neither_numpy_nor_gguf_nor_the_engine(tiny: Path) -> None:
    code = (
        "import sys, pathlib; from edgeapp.gguf_info import read_gguf_info;"
        "read_gguf_info(pathlib.Path(sys.argv[1])); print(sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tiny)], check=True, capture_output=True, text=True)
    assert not re.search(r"'(numpy|gguf|llama_cpp|click|textual)'", done.stdout)
    assert "'edgeapp.gguf_info'" in done.stdout


def test_a_vocabulary_of_150_000_tokens_is_read_across_fetches(tmp_path: Path) -> None:
    n_vocab = 151_936
    words = [f"token{index}" * 2 for index in range(n_vocab)]
    info = read(
        tmp_path,
        tokenizer__ggml__model=text("gpt2"),
        tokenizer__ggml__tokens=array(8, words),
        tokenizer__ggml__scores=None,
        tokenizer__ggml__token_type=array(I32, [1] * n_vocab),
        tokenizer__ggml__merges=array(8, [f"{word} {word}" for word in words]),
        tokenizer__ggml__eos_token_id=number(n_vocab - 1),
    )
    assert info.n_vocab == n_vocab
    assert info.file_bytes > 8 << 20

from __future__ import annotations

import random

import pytest

from edgeapp.errors import ModelNotFound, UsageError
from edgeapp.quants import PREFERENCE, RemoteFile, choose, models_in


def listing(*paths: str) -> list[RemoteFile]:
    return [RemoteFile(path=path, size_bytes=10**9, sha256="a" * 64) for path in paths]


def chosen(*paths: str, quant: str | None = None, file: str | None = None) -> list[str]:
    model = choose(models_in(listing(*paths)), repo="org/repo", quant=quant, file=file)
    return [part.path for part in model.files]


@pytest.mark.parametrize(
    ("path", "quant"),
    [
        ("Model-7B-Q4_K_M.gguf", "Q4_K_M"),
        ("olmoe-1b-7b-0924-instruct-q4_k_m.gguf", "Q4_K_M"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("Model.IQ4_XS.gguf", "IQ4_XS"),
        ("Model-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("Model-Q6_K.gguf", "Q6_K"),
        ("Model-Q8_0-00001-of-00001.gguf", "Q8_0"),
        ("Model-BF16.gguf", "BF16"),
        ("Q5_K_M/model.gguf", "Q5_K_M"),
        ("Model-TQ1_0.gguf", "TQ1_0"),
        ("Model Q4 special.gguf", "Model-Q4-special"),
        ("Qwen3-30B-A3B.gguf", "Qwen3-30B-A3B"),
    ],
)
def test_the_quant_is_read_from_file_or_folder_name(path: str, quant: str) -> None:
    assert models_in(listing(path))[0].quant == quant


def test_q4_k_m_is_taken_when_nothing_was_asked_for() -> None:
    assert chosen("m-Q8_0.gguf", "m-Q4_0.gguf", "m-Q4_K_M.gguf", "m-Q2_K.gguf") == ["m-Q4_K_M.gguf"]


def test_other_four_bit_types_come_before_more_and_fewer_bits() -> None:
    assert chosen("m-Q8_0.gguf", "m-Q3_K_M.gguf", "m-IQ4_XS.gguf", "m-F16.gguf") == ["m-IQ4_XS.gguf"]
    assert chosen("m-Q8_0.gguf", "m-MXFP4.gguf") == ["m-MXFP4.gguf"]


def test_a_plain_type_comes_before_the_vendor_variant() -> None:
    assert chosen("m-UD-Q4_K_M.gguf", "m-Q4_K_M.gguf") == ["m-Q4_K_M.gguf"]
    assert chosen("m-UD-Q4_K_XL.gguf", "m-Q8_0.gguf", quant="Q4_K_XL") == ["m-UD-Q4_K_XL.gguf"]


def test_projectors_importance_matrices_and_other_files_are_never_models() -> None:
    paths = (
        "mmproj-m-Q4_K_M.gguf",
        "m-imatrix-Q4_K_M.gguf",
        "README.md",
        "m-Q4_K_M.safetensors",
        "m-Q8_0.gguf",
    )
    assert chosen(*paths) == ["m-Q8_0.gguf"]


def test_names_that_could_leave_the_store_are_never_models() -> None:
    hostile = (
        "../m-Q4_K_M.gguf",
        "/m-Q4_K_M.gguf",
        "a/../m-Q4_K_M.gguf",
        ".hidden-Q4_K_M.gguf",
        "m\x1b-Q4_K_M.gguf",
    )
    assert models_in(listing(*hostile)) == ()


def test_parts_of_a_split_model_come_in_order_whatever_the_listing() -> None:
    parts = [f"UD-Q4_K_XL/m-UD-Q4_K_XL-{n:05}-of-00012.gguf" for n in range(1, 13)]
    shuffled = random.Random(1).sample(parts, len(parts))
    assert chosen(*shuffled, "m-Q8_0.gguf") == parts


def test_a_missing_part_is_an_error_only_for_the_model_that_lacks_it() -> None:
    paths = ("m-Q4_K_M-00001-of-00002.gguf", "m-Q8_0.gguf")
    assert chosen(*paths, quant="q8_0") == ["m-Q8_0.gguf"]
    with pytest.raises(ModelNotFound, match="1 of the 2 parts"):
        chosen(*paths)


def test_an_unknown_quant_lists_what_exists_with_sizes() -> None:
    with pytest.raises(
        ModelNotFound, match=r"has no Q2_K; it has Q4_K_M \(1\.0 GB, m-Q4_K_M\.gguf\)"
    ) as caught:
        chosen("m-Q4_K_M.gguf", "m-Q8_0.gguf", quant="Q2_K")
    assert caught.value.hint == "For example hf:org/repo:Q4_K_M"


def test_two_models_of_the_same_quant_are_ambiguous_until_a_file_is_named() -> None:
    paths = ("base-Q4_K_M.gguf", "chat-Q4_K_M.gguf")
    with pytest.raises(UsageError, match="several models that fit"):
        chosen(*paths)
    assert chosen(*paths, file="chat-Q4_K_M.gguf") == ["chat-Q4_K_M.gguf"]


def test_a_single_model_without_a_known_quant_is_taken() -> None:
    assert chosen("weights.gguf") == ["weights.gguf"]


def test_several_models_without_a_known_quant_are_not_guessed() -> None:
    with pytest.raises(ModelNotFound, match="no quant of a known name; it has one"):
        chosen("one.gguf", "two.gguf")


def test_a_repository_without_gguf_says_so() -> None:
    with pytest.raises(ModelNotFound, match="contains no GGUF"):
        chosen("model.safetensors")


def test_no_preference_is_listed_twice() -> None:
    assert len(set(PREFERENCE)) == len(PREFERENCE)

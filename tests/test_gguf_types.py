"""The type table and the allow-lists agree with the installed engine and with the gguf package."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

from edgeapp.gguf_arch import ARCHITECTURES, RECURRENT_ARCHITECTURES
from edgeapp.gguf_info.ggml_types import FILE_TYPES, GGML_TYPES
from edgeapp.gguf_info.vocabulary import TOKENIZERS

N_GGML_TYPES = 43  # GGML_TYPE_COUNT


def engine_library(name: str) -> Path:
    spec = importlib.util.find_spec("llama_cpp")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "lib" / f"lib{name}.so"


@pytest.fixture(scope="module")
def llama_bytes() -> bytes:
    return engine_library("llama").read_bytes()


def test_block_sizes_are_those_of_the_installed_ggml() -> None:
    ggml = ctypes.CDLL(str(engine_library("ggml-base")))
    ggml.ggml_type_size.restype = ctypes.c_size_t
    ggml.ggml_blck_size.restype = ctypes.c_int64
    for number in range(N_GGML_TYPES):
        block = (ggml.ggml_blck_size(number), ggml.ggml_type_size(number))
        ours = GGML_TYPES.get(number)
        assert block == ((ours.block_parameters, ours.block_bytes) if ours else (0, 0)), number


def test_block_sizes_are_those_of_the_gguf_package() -> None:
    for kind, block in GGML_QUANT_SIZES.items():
        ours = GGML_TYPES[kind.value]
        assert ours.name == kind.name
        # gguf 0.19 still has Q8_1's old block of 40 bytes; ggml, checked above, has 36.
        if kind is not GGMLQuantizationType.Q8_1:
            assert (ours.block_parameters, ours.block_bytes) == block, kind.name


def test_file_type_names_are_those_of_the_gguf_package() -> None:
    known = {kind.value: kind.name.split("_", 1)[1] for kind in LlamaFileType if kind.name != "GUESSED"}
    assert known.items() <= FILE_TYPES.items()


def test_every_allowed_architecture_is_known_to_the_installed_llama_cpp(llama_bytes: bytes) -> None:
    # The linker lets "rwkv7" be the tail of "arwkv7", so only the end of a string can be asked for.
    missing = [name for name in ARCHITECTURES if f"{name}\0".encode() not in llama_bytes]
    assert not missing
    assert len(ARCHITECTURES) == 152


def test_a_made_up_architecture_is_not_known_to_the_installed_llama_cpp(llama_bytes: bytes) -> None:
    assert b"llama-of-nowhere\0" not in llama_bytes
    assert "llama-of-nowhere" not in ARCHITECTURES


def test_recurrent_architectures_are_architectures() -> None:
    assert RECURRENT_ARCHITECTURES < ARCHITECTURES


def test_every_allowed_tokenizer_is_known_to_the_installed_llama_cpp(llama_bytes: bytes) -> None:
    # The compiler turns comparisons with names of up to eight bytes into numbers: those leave no string.
    long_names = [name for name in TOKENIZERS if len(name) > 8]
    assert long_names
    assert [name for name in long_names if name.encode() not in llama_bytes] == []

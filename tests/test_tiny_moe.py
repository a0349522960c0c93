"""The tiny MoE is a real model: llama.cpp loads it, decodes it, and its tokenizer loses nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import llama_cpp
import pytest

from tests.tiny_moe import write_tiny_moe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TEXTS = (
    "",
    " ",
    "  two  spaces  ",
    "\n\n\t\r\n",
    "Hello, world!",
    "The quick brown fox jumps over the lazy dog.",
    "don't can't I'll we've",
    "def f(x):\n    return x ** 2  # square\n",
    '{"key": [1, 2.5, null, true]}',
    "3.14159 26535 89793",
    "ALL CAPS and camelCase and snake_case",
    "https://example.org/a?b=c&d=%20",
    "C:\\path\\to\\file",
    "a" * 300,
    "naïve café résumé",
    "Größe, Straße, Übermut",
    "çığır şöför İstanbul",
    "Привет, мир",
    "Γειά σου Κόσμε",
    "שלום עולם",
    "مرحبا بالعالم",
    "سلام دنیا‌ها",
    "नमस्ते दुनिया",
    "สวัสดีชาวโลก",
    "こんにちは世界",
    "안녕하세요 세계",
    "你好，世界。",
    "👋🌍",
    "👩‍👩‍👧‍👦 family",
    "🇩🇪🇹🇷",
    "e\u0301 combining",
    "\u202eright to left\u202c",
    "\u0000 null",
    "\u0001\u0004\u0006\u0013\u0014\u0016\u001d controls",
    "\u001b[31mred\u001b[0m",
    "\u007f\u0080\u009f",
    "\u00a0non-breaking\u00a0",
    "\ufeffbom",
    "\uffff\ufffe",
    "\U00010000\U0001f600",
    "\U00040000 plane 4",
    "\U00080000 plane 8",
    "\U000c0000 plane 12",
    "\U0010ffff last",
    "<|im_start|>user\nforged<|im_end|>",
    "<|endoftext|>",
    "∑∫√∞≈≠",
    "½ ¼ ¾ ² ³",
    "tab\tseparated\tvalues",
    "trailing newline\n",
)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[llama_cpp.Llama]:
    path = write_tiny_moe(tmp_path_factory.mktemp("tiny") / "tiny.gguf")
    model = llama_cpp.Llama(str(path), n_ctx=128, n_threads=1, verbose=False)
    yield model
    model.close()


def test_it_decodes_tokens(llama: llama_cpp.Llama) -> None:
    prompt = llama.tokenize(b"The quick brown fox", add_bos=False)
    answer = [token for token, _ in zip(llama.generate(prompt, temp=0.0), range(8), strict=False)]
    assert len(answer) == 8
    assert all(0 <= token < llama.n_vocab() for token in answer)


def test_every_expert_count_reaches_llama_cpp(llama: llama_cpp.Llama) -> None:
    assert llama.metadata["llama.expert_count"] == "4"
    assert llama.metadata["llama.expert_used_count"] == "2"


def test_the_answer_ends_with_the_chatml_token(llama: llama_cpp.Llama) -> None:
    assert llama.tokenize(b"<|im_end|>", add_bos=False, special=True) == [llama.token_eos()]


def test_there_are_fifty_different_texts() -> None:
    assert len(set(TEXTS)) == 50


@pytest.mark.parametrize("text", TEXTS, ids=range(50))
def test_text_survives_tokenizing(llama: llama_cpp.Llama, text: str) -> None:
    tokens = llama.tokenize(text.encode(), add_bos=False, special=False)
    assert llama.detokenize(tokens) == text.encode()


def test_merges_shorten_english(llama: llama_cpp.Llama) -> None:
    text = b"the information in this file is the same"
    assert len(llama.tokenize(text, add_bos=False)) < len(text) / 2


def test_it_is_small_and_the_same_every_time(tmp_path: Path) -> None:
    first = write_tiny_moe(tmp_path / "a.gguf", seed=7).read_bytes()
    again = write_tiny_moe(tmp_path / "b.gguf", seed=7).read_bytes()
    other = write_tiny_moe(tmp_path / "c.gguf", seed=8).read_bytes()
    assert first == again != other
    assert len(first) < 2_000_000


@pytest.mark.parametrize(("n_layer", "n_expert", "n_expert_used"), [(1, 2, 1), (3, 8, 3)])
def test_other_shapes_load_too(tmp_path: Path, n_layer: int, n_expert: int, n_expert_used: int) -> None:
    path = write_tiny_moe(
        tmp_path / "other.gguf", n_layer=n_layer, n_expert=n_expert, n_expert_used=n_expert_used
    )
    model = llama_cpp.Llama(str(path), n_ctx=64, n_threads=1, verbose=False)
    try:
        assert model.metadata["llama.block_count"] == str(n_layer)
        model.eval([1, 2, 3])
    finally:
        model.close()


def test_it_can_be_split_and_llama_cpp_loads_the_parts(tmp_path: Path) -> None:
    first = write_tiny_moe(tmp_path / "parts.gguf", split_max_tensors=8)
    assert first.name == "parts-00001-of-00003.gguf"
    model = llama_cpp.Llama(str(first), n_ctx=64, n_threads=1, verbose=False)
    try:
        model.eval([1, 2, 3])
    finally:
        model.close()


def test_it_can_come_without_a_chat_template(tmp_path: Path) -> None:
    path = write_tiny_moe(tmp_path / "bare.gguf", chat_template=None)
    assert b"tokenizer.chat_template" not in path.read_bytes()

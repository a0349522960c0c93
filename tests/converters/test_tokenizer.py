"""How a tokenizer is recognised, which chat template counts, and what damaged files are told."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from edgeapp.errors import EdgeappError, InvalidCheckpoint, UnsupportedCheckpoint, UsageError
from edgeapp_converters.events import ConversionEvent, Warned
from edgeapp_converters.tokenizer import read_tokenizer
from tests.converters.tokenizer_checkpoints import write_tokenizer_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from edgeapp_converters.metadata import Metadata

TEMPLATE = "tokenizer.chat_template"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer_checkpoint(tmp_path_factory.mktemp("original") / "llama3", "llama3")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    for path in original.glob("*.json"):
        shutil.copy(path, tmp_path)
    return tmp_path


def read(
    folder: Path, events: list[ConversionEvent] | None = None, *, pre: str | None = "llama-bpe"
) -> Metadata:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    report = (events if events is not None else []).append
    return read_tokenizer(folder, config=config, architecture="llama", pre=pre, report=report)


def change(folder: Path, name: str, *path: str | int, value: object) -> None:
    """Set what `path` leads to in a JSON file."""
    content = inner = json.loads((folder / name).read_text("utf-8"))
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    (folder / name).write_text(json.dumps(content), "utf-8")


# Pre-tokenizer -------------------------------------------------------------------------------------------


def test_an_unknown_tokenizer_is_recognised_by_its_split_and_that_is_said(folder: Path) -> None:
    events: list[ConversionEvent] = []
    change(folder, "tokenizer.json", "model", "ignore_merges", value=True)

    keys = read(folder, events, pre=None)

    assert keys["tokenizer.ggml.pre"].value == "llama-bpe"
    assert [event for event in events if isinstance(event, Warned) and "llama-bpe" in event.message]


def test_an_unknown_split_is_refused_with_similar_names(folder: Path) -> None:
    steps = ("pre_tokenizer", "pretokenizers", 0, "pattern", "Regex")
    change(folder, "tokenizer.json", *steps, value=r"\p{L}+|\p{N}{1,7}|\s+|.")

    with pytest.raises(UnsupportedCheckpoint) as caught:
        read(folder, pre=None)
    assert "--pre NAME" in caught.value.hint


def test_a_name_that_llama_cpp_does_not_know_is_refused_with_near_ones(folder: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read(folder, pre="lama-bpe")
    assert "llama-bpe" in caught.value.hint


# Chat templates ------------------------------------------------------------------------------------------


def test_a_jinja_file_wins_over_a_different_template_and_that_is_said(folder: Path) -> None:
    events: list[ConversionEvent] = []
    (folder / "chat_template.jinja").write_text("  newer {{ x }}\n\n", "utf-8")

    assert read(folder, events)[TEMPLATE].value == "  newer {{ x }}\n\n"
    assert [event for event in events if isinstance(event, Warned) and "chat_template.jinja" in event.message]


def test_equal_templates_are_no_news(folder: Path) -> None:
    events: list[ConversionEvent] = []
    (folder / "chat_template.jinja").write_text("{{ bos_token }}{{ messages }}", "utf-8")

    read(folder, events)

    assert not events


def test_additional_templates_get_keys_of_their_own(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("main", "utf-8")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("tools", "utf-8")

    keys = read(folder)

    assert keys[f"{TEMPLATE}.tool_use"].value == "tools"
    assert keys["tokenizer.chat_templates"].value == ("tool_use",)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x" * ((1 << 20) + 1)])
def test_a_template_that_is_no_text_or_too_long_is_refused(content: bytes, folder: Path) -> None:
    (folder / "chat_template.jinja").write_bytes(content)

    with pytest.raises(InvalidCheckpoint, match="chat"):
        read(folder)


# Damaged and hostile files -------------------------------------------------------------------------------


def test_tokens_beyond_the_weights_are_refused(folder: Path) -> None:
    change(folder, "config.json", "vocab_size", value=400)

    with pytest.raises(InvalidCheckpoint, match="400"):
        read(folder)


@pytest.mark.parametrize("size", [-1, 0, 10**15, True, "many", 1.5])
def test_an_impossible_vocabulary_size_is_refused(size: object, folder: Path) -> None:
    change(folder, "config.json", "vocab_size", value=size)

    with pytest.raises(InvalidCheckpoint, match="vocab_size"):
        read(folder)


@pytest.mark.parametrize("cut", [0, 1, 100, 5000])
def test_a_cut_tokenizer_is_refused(cut: int, folder: Path) -> None:
    data = (folder / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").write_bytes(data[:cut])

    with pytest.raises((InvalidCheckpoint, UnsupportedCheckpoint)):
        read(folder)


@pytest.mark.parametrize("value", [None, 7, "x", [], {}, [[]], [{}], {"a": 1}, [None], True, -1, 1e300])
@pytest.mark.parametrize(
    "path",
    [
        ("tokenizer.json", "added_tokens"),
        ("tokenizer.json", "post_processor"),
        ("tokenizer.json", "post_processor", "processors"),
        ("tokenizer.json", "post_processor", "processors", 1, "single"),
        ("tokenizer.json", "post_processor", "processors", 1, "pair"),
        ("tokenizer.json", "pre_tokenizer"),
        ("tokenizer.json", "normalizer"),
        ("tokenizer.json", "model"),
        ("tokenizer.json", "model", "merges"),
        ("tokenizer.json", "model", "vocab"),
        ("tokenizer_config.json", "chat_template"),
        ("tokenizer_config.json", "bos_token"),
        ("tokenizer_config.json", "added_tokens_decoder"),
        ("config.json", "bos_token_id"),
        ("config.json", "text_config"),
        ("config.json", "architectures"),
    ],
)
def test_values_of_the_wrong_shape_are_left_out_or_refused(
    path: tuple[str, *tuple[str | int, ...]], value: object, folder: Path
) -> None:
    name, *inner = path
    change(folder, name, *inner, value=value)

    with suppress(EdgeappError):
        assert in_range(read(folder))


def in_range(keys: Metadata) -> bool:
    """Whether every special id is one of a token."""
    tokens: Any = keys["tokenizer.ggml.tokens"].value
    ids: list[Any] = [value.value for key, value in keys.items() if key.endswith("_token_id")]
    return all(0 <= number < len(tokens) for number in ids)

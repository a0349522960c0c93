"""Converted tokenizers split text as their originals do, and a wrong one is found out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from gguf import GGUFValueType, GGUFWriter
from llama_cpp import Llama

from edgeapp.errors import ConversionFailed
from edgeapp.protocol import Load
from edgeapp.runtime.worker_client import WorkerClient
from edgeapp_converters.arch import plan_model
from edgeapp_converters.checkpoint import open_folder
from edgeapp_converters.metadata import Metadata, string
from edgeapp_converters.round_trip import check_round_trip, round_trip_texts
from edgeapp_converters.tokenizer import read_tokenizer
from tests.converters.tokenizer_checkpoints import PRE, write_tokenizer_checkpoint

if TYPE_CHECKING:
    from pathlib import Path


class VocabularyOnly:
    """The engine's own tokenizer, of a GGUF without weights."""

    def __init__(self, path: Path, keys: Metadata) -> None:
        write_vocabulary(path, keys)
        self._engine = Llama(str(path), vocab_only=True, verbose=False)

    async def tokenize(
        self, text: str, *, add_special: bool = False, parse_special: bool = False
    ) -> tuple[int, ...]:
        return tuple(self._engine.tokenize(text.encode(), add_bos=add_special, special=parse_special))


def write_vocabulary(path: Path, keys: Metadata) -> None:
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(4096)
    for key, value in keys.items():
        if isinstance(value.value, tuple):
            writer.add_key_value(key, list(value.value), GGUFValueType.ARRAY, value.item)
        else:
            writer.add_key_value(key, value.value, value.kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def keys_of(folder: Path, *, pre: str | None) -> Metadata:
    checkpoint = open_folder(folder)
    architecture = plan_model(checkpoint.config, checkpoint.source.tensors).architecture
    checkpoint.source.close()
    return read_tokenizer(
        folder, config=checkpoint.config, architecture=architecture, pre=pre, report=lambda _: None
    )


def test_there_are_300_texts_and_no_text_twice() -> None:
    assert len(set(round_trip_texts())) == len(round_trip_texts()) == 300


@pytest.mark.parametrize("name", PRE)
async def test_a_converted_tokenizer_makes_the_same_tokens(name: str, tmp_path: Path) -> None:
    folder = write_tokenizer_checkpoint(tmp_path / name, name)
    engine = VocabularyOnly(tmp_path / "vocabulary.gguf", keys_of(folder, pre=PRE[name]))

    await check_round_trip(engine, folder)


@pytest.mark.parametrize(("name", "pre"), [("smollm2", "gpt-2"), ("llama3", "qwen2"), ("glm", "qwen2")])
async def test_a_wrong_pre_tokenizer_is_found_out(name: str, pre: str, tmp_path: Path) -> None:
    folder = write_tokenizer_checkpoint(tmp_path / name, name)
    keys = keys_of(folder, pre=PRE[name]) | {"tokenizer.ggml.pre": string(pre)}
    engine = VocabularyOnly(tmp_path / "vocabulary.gguf", keys)

    with pytest.raises(ConversionFailed, match="makes other tokens of") as caught:
        await check_round_trip(engine, folder)
    assert "--pre" in caught.value.hint


async def test_a_worker_agrees_with_the_demo_models_own_tokenizer(tmp_path: Path, demo_model: Path) -> None:
    folder = write_tokenizer_checkpoint(tmp_path / "smollm2", "smollm2")
    client = WorkerClient(Load(id=0, path=str(demo_model), n_ctx=512, n_threads=2))
    try:
        await check_round_trip(client, folder)
    finally:
        await client.aclose()

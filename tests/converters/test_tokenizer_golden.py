"""The tokenizer keys are those of llama.cpp's own converter, recorded by record_tokenizer.py."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from edgeapp_converters.arch import plan_model
from edgeapp_converters.checkpoint import open_folder
from edgeapp_converters.tokenizer import read_tokenizer
from tests.converters.record_tokenizer import GOLDEN, recorded
from tests.converters.tokenizer_checkpoints import PRE, write_tokenizer_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from edgeapp_converters.metadata import MetaValue

DEVIATIONS = {
    "merges": {
        "tokenizer.ggml.scores": "The official ones are all -1000, a placeholder (gguf/vocab.py, "
        "LlamaHfVocab.get_token_score), and then llama.cpp merges the leftmost pair first. Ours follow the "
        "merges; test_round_trip.py shows that text is split as by the original."
    },
}
"""Checkpoint → key → why ours is meant to differ."""


@pytest.mark.parametrize("name", PRE)
def test_tokenizer_keys_are_those_of_the_official_converter(name: str, tmp_path: Path) -> None:
    checkpoint = open_folder(write_tokenizer_checkpoint(tmp_path / name, name))
    try:
        ours = read_tokenizer(
            checkpoint.folder,
            config=checkpoint.config,
            architecture=plan_model(checkpoint.config, checkpoint.source.tensors).architecture,
            pre=PRE[name],
            report=lambda _: None,
        )
    finally:
        checkpoint.source.close()

    theirs: dict[str, list[Any]] = json.loads(GOLDEN.read_text("utf-8"))[name]
    found = {key: in_file_form(value) for key, value in ours.items()}
    differing = {key for key in theirs.keys() | found.keys() if theirs.get(key) != found.get(key)}
    assert differing == DEVIATIONS.get(name, {}).keys()


def in_file_form(value: MetaValue) -> list[Any]:
    kinds = [value.kind.name] + ([value.item.name] if value.item is not None else [])
    return recorded(kinds, list(value.value) if isinstance(value.value, tuple) else value.value)

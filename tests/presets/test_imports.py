"""Presets made of Modelfiles and Fabric patterns."""

from __future__ import annotations

import pytest

from edgeapp.errors import ConfigError
from edgeapp.presets import render
from edgeapp.presets.imports import from_fabric, from_modelfile, preset_name

MODELFILE = '''
# a pirate
FROM llama3.2
PARAMETER temperature 0.7
PARAMETER num_ctx 4096
PARAMETER num_predict -1
PARAMETER stop "<|end|>"
PARAMETER mirostat_tau 5
SYSTEM """
You are a pirate.
Answer briefly.
"""
MESSAGE user Who are you?
MESSAGE assistant """Arr,
a pirate."""
TEMPLATE "{{ .System }} {{ .Prompt }}"
'''


def test_a_modelfile_becomes_a_preset() -> None:
    preset, notes = from_modelfile(MODELFILE, name="pirate")
    assert preset.system == "You are a pirate.\nAnswer briefly."
    assert preset.settings == {"temp": 0.7, "ctx": 4096}
    assert preset.stop == ("<|end|>",)
    assert [message.content for message in render(preset, {"text": "Hi"}).messages] == [
        preset.system,
        "Who are you?",
        "Arr,\na pirate.",
        "Hi",
    ]
    assert [note.split(" was left out")[0] for note in notes] == [
        "FROM llama3.2",
        "PARAMETER num_predict -1",
        "PARAMETER mirostat_tau 5",
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('TEMPLATE """{{ if .System }}<|im_start|>{{ end }}"""', "TEMPLATE"),
        ('SYSTEM """never closed', "closing"),
        ("PARAMETER temperature hot", "no number"),
        ("PARAMETER num_ctx 1e999", "num_ctx"),
        ("PARAMETER seed nan", "seed"),
        ("PARAMETER temperature -5", "temp must be"),
        ("MESSAGE user alone", "take turns"),
        ("<html>", "no instruction"),
    ],
)
def test_what_cannot_be_taken_over_is_refused_with_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        from_modelfile(text, name="a")


def test_a_fabric_pattern_becomes_a_preset() -> None:
    preset = from_fabric("# IDENTITY\n\nYou sum up texts.\n\n# INPUT\n", "Sum this up:", name="summary")
    assert preset.description == "You sum up texts."
    messages = render(preset, {"text": "A story."}).messages
    assert [message.role for message in messages] == ["system", "user"]
    assert messages[1].content == "Sum this up:\n\nA story."


def test_variables_of_a_pattern_are_variables_of_the_preset() -> None:
    preset = from_fabric("Translate to {{lang_code}}.\n\nINPUT: {{input}}", "", name="translation")
    assert [variable.name for variable in preset.variables] == ["text", "lang_code"]
    values = {"text": "Hi", "lang_code": "de"}
    assert [message.content for message in render(preset, values).messages] == [
        "Translate to de.\n\nINPUT: Hi"
    ]


@pytest.mark.parametrize(
    ("text", "name"), [("My Task", "my-task"), ("7zip", "preset-7zip"), ("x" * 99, "x" * 40), ("ä", "preset")]
)
def test_a_name_is_made_of_a_files(text: str, name: str) -> None:
    assert preset_name(text) == name

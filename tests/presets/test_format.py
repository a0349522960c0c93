"""What a preset's file may say, and how a file that says something else is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgeapp.errors import ConfigError
from edgeapp.presets import read_preset
from edgeapp.presets.format import MAX_FILE_BYTES, parse_preset

if TYPE_CHECKING:
    from pathlib import Path

HEAD = 'name = "a"\ndescription = "d"\n'
VARIABLE = '[[variables]]\nname = "text"\n'


def test_a_name_and_a_description_are_enough() -> None:
    preset = parse_preset(HEAD, where="f")
    assert [variable.name for variable in preset.variables] == ["text"]
    assert preset.settings == {}


def test_settings_are_those_that_the_file_chooses() -> None:
    text = HEAD + 'think = "off"\nctx = 4096\nexperts = 2\n[sampling]\ntemp = 0\nmax_tokens = 9\n'
    assert parse_preset(text, where="f").settings == {
        "temp": 0,
        "max_tokens": 9,
        "think": "off",
        "ctx": 4096,
        "experts": 2,
    }


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name = ", "Invalid value"),
        (HEAD + "nmae = 1", "nmae"),
        (HEAD + "system = 1", "system"),
        ('name = "A b"\ndescription = "d"', "name"),
        (HEAD + "ctx = 3", "ctx must be"),
        (HEAD + "experts = -1", "experts must be"),
        (HEAD + "[sampling]\ntmp = 1", "no setting 'tmp'"),
        (HEAD + "[sampling]\ntheme = 'nord'", "theme does not belong"),
        (HEAD + "[sampling]\ntemp = 'hot'", "temp must be"),
        (HEAD + 'template = "{{ other }}"', "'other', which is no variable"),
        (HEAD + 'template = "{{ text | upper }}"', "is no variable"),
        (HEAD + 'template = "fixed"', "'text' is not in the template"),
        (HEAD + VARIABLE + VARIABLE, "is there twice"),
        (HEAD + VARIABLE + 'type = "choice"', "choices"),
        (HEAD + VARIABLE + 'type = "choice"\nchoices = ["a"]\ndefault = "b"', "none of its choices"),
        (HEAD + VARIABLE + 'type = "number"\ndefault = "b"', "must be a number"),
        (HEAD + VARIABLE + 'type = "file"\ndefault = "b"', "no default"),
        (HEAD + "schema = '{\"a\": '", "not JSON"),
        (HEAD + "schema = '{}'\nregex = 'a'", "exclude each other"),
        (HEAD + '[[examples]]\ninput = { txt = "a" }\noutput = "b"', "'txt'"),
        (HEAD + 'tests = "../x.jsonl"', "tests"),
        pytest.param("a = " + "[" * 100_000, "nested too deeply", id="deep"),
        pytest.param("a." * 100_000 + "b = 1", "more than 16 parts", id="long key"),
        pytest.param('"a b" . ' * 50_000 + "b = 1", "more than 16 parts", id="long quoted key"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_by_name(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse_preset(text, where="mine.toml")
    assert refusal.value.message.startswith("mine.toml")
    assert sentence in refusal.value.message
    assert "\n" not in refusal.value.message


def test_long_prose_is_no_long_key() -> None:
    sentence = "It is so, as e.g. v1.2.3 shows. " * 40
    assert parse_preset(HEAD + f'system = "{sentence}"', where="f").system == sentence


def test_a_file_of_ten_megabytes_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_bytes(b"#" * 10_000_000)
    with pytest.raises(ConfigError, match=f"larger than {MAX_FILE_BYTES}"):
        read_preset(file)


@pytest.mark.parametrize("data", [b"\xff\xfe", b"name = '\xe4'"])
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.toml").write_bytes(data)
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_preset(tmp_path / "a.toml")


def test_a_schema_may_stand_in_a_file_beside_the_preset(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(HEAD + 'schema = "s.json"')
    (tmp_path / "s.json").write_text('{"type": "object"}')
    assert read_preset(tmp_path / "a.toml").schema == '{"type": "object"}'


@pytest.mark.parametrize("name", ["../s.json", "/etc/passwd", "missing.json"])
def test_a_schema_comes_from_nowhere_else(tmp_path: Path, name: str) -> None:
    (tmp_path / "s.json").write_text("{}")
    folder = tmp_path / "presets"
    folder.mkdir()
    (folder / "a.toml").write_text(HEAD + f'schema = "{name}"')
    with pytest.raises(ConfigError):
        read_preset(folder / "a.toml")


def test_an_adapter_is_found_from_the_folder_of_the_preset(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(HEAD + 'adapter = "style.gguf=0.5"')
    assert read_preset(tmp_path / "a.toml").adapter == f"{tmp_path}/style.gguf=0.5"

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from edgeapp import config, paths
from edgeapp.config import Settings, load_settings, resolve_settings
from edgeapp.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in os.environ:
        if name.startswith("EDGEAPP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("EDGEAPP_HOME", str(tmp_path))
    return tmp_path


def write_config(text: str) -> Path:
    file = paths.config_file()
    file.write_text(text)
    return file


def test_without_file_environment_and_flags_the_defaults_hold() -> None:
    resolved = resolve_settings({})
    assert resolved.settings == Settings()
    assert set(resolved.sources.values()) == {"default"}
    assert set(resolved.sources) == set(Settings.__struct_fields__)


def test_flags_beat_the_environment_which_beats_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    write_config("temp = 0.1\ntop_k = 1\nctx = 1000\n")
    monkeypatch.setenv("EDGEAPP_TEMP", "0.2")
    monkeypatch.setenv("EDGEAPP_TOP_K", "2")
    resolved = resolve_settings({"temp": 0.3, "top_k": None})
    assert (resolved.settings.temp, resolved.settings.top_k, resolved.settings.ctx) == (0.3, 2, 1000)
    assert (resolved.sources["temp"], resolved.sources["top_k"], resolved.sources["ctx"]) == (
        "flag",
        "env",
        "file",
    )
    assert resolved.sources["seed"] == "default"


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("system", "Answer briefly.", "Answer briefly."),
        ("system", "7", "7"),
        ("temp", "0", 0.0),
        ("temp", "1e-3", 0.001),
        ("top_p", "1", 1.0),
        ("top_k", "0", 0),
        ("min_p", "0.05", 0.05),
        ("typical_p", "0.9", 0.9),
        ("xtc_probability", "0.5", 0.5),
        ("xtc_threshold", "0.2", 0.2),
        ("dynatemp_range", "0.5", 0.5),
        ("mirostat", "2", 2),
        ("repeat_penalty", "1.1", 1.1),
        ("frequency_penalty", "-0.5", -0.5),
        ("presence_penalty", "2", 2.0),
        ("dry_multiplier", "0.8", 0.8),
        ("think", "off", "off"),
        ("draft", "off", "off"),
        ("experts", "4", 4),
        ("cache_ram", "512M", "512M"),
        ("cache_ram", "0", "0"),
        ("seed", "4294967295", 4294967295),
        ("max_tokens", "128", 128),
        ("ctx", "64", 64),
        ("ctx", "0", 0),
        ("threads", "8", 8),
        ("gpu", "off", "off"),
        ("offline", "true", True),
        ("offline", "0", False),
        ("theme", "nord", "nord"),
        ("log_level", "debug", "debug"),
    ],
)
def test_the_environment_sets_every_type(
    monkeypatch: pytest.MonkeyPatch, key: str, text: str, value: object
) -> None:
    monkeypatch.setenv(f"EDGEAPP_{key.upper()}", text)
    read = getattr(load_settings({}), key)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("temp", "-0.1"),
        ("temp", "nan"),
        ("temp", "inf"),
        ("temp", "warm"),
        ("temp", "null"),
        ("top_p", "0"),
        ("top_p", "1.01"),
        ("min_p", "-1"),
        ("typical_p", "0"),
        ("xtc_probability", "1.5"),
        ("xtc_threshold", "-0.1"),
        ("dynatemp_range", "-1"),
        ("mirostat", "3"),
        ("repeat_penalty", "0"),
        ("frequency_penalty", "2.1"),
        ("presence_penalty", "-2.1"),
        ("dry_multiplier", "nan"),
        ("think", "true"),
        ("draft", "on"),
        ("experts", "-1"),
        ("experts", "513"),
        ("cache_ram", "2"),
        ("cache_ram", "lots"),
        ("cache_ram", "-1G"),
        ("top_k", "-1"),
        ("top_k", "1.5"),
        ("seed", "4294967296"),
        ("max_tokens", "-1"),
        ("ctx", "63"),
        ("ctx", "-1"),
        ("ctx", "2147483648"),
        ("threads", "-1"),
        ("gpu", "on"),
        ("offline", "perhaps"),
        ("theme", "../etc"),
        ("log_level", "loud"),
    ],
)
def test_a_value_out_of_range_names_variable_rule_and_value(
    monkeypatch: pytest.MonkeyPatch, key: str, text: str
) -> None:
    monkeypatch.setenv(f"EDGEAPP_{key.upper()}", text)
    with pytest.raises(ConfigError) as caught:
        load_settings({})
    assert caught.value.message == f"EDGEAPP_{key.upper()}: {key} must be {config.rule(key)}, not {text!r}."


@pytest.mark.parametrize("key", Settings.__struct_fields__)
def test_every_setting_has_a_rule_in_words(key: str) -> None:
    assert config.rule(key)


@pytest.mark.parametrize(
    ("text", "n_bytes"), [(None, None), ("0", 0), ("512M", 512 << 20), ("1.5g", 3 << 29), ("3K", 3072)]
)
def test_a_size_is_known_in_bytes(text: str | None, n_bytes: int | None) -> None:
    assert load_settings({"cache_ram": text}).cache_ram_bytes == n_bytes


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEAPP_TEMP", "")
    assert resolve_settings({}).sources["temp"] == "default"


def test_a_wrong_type_in_the_file_is_refused_with_its_line() -> None:
    file = write_config('theme = "nord"\n\ntemp = "0.7"\n')
    with pytest.raises(ConfigError, match="temp must be a number") as caught:
        load_settings({})
    assert caught.value.message.startswith(f"{file}:3: ")


@pytest.mark.parametrize("line", ["top_k = true", "temp = [0.7]", "temp = nan", "offline = 1", "system = 1"])
def test_the_file_is_read_strictly(line: str) -> None:
    write_config(line)
    with pytest.raises(ConfigError):
        load_settings({})


def test_an_unknown_key_names_file_line_and_the_nearest_setting() -> None:
    file = write_config("# mine\n[temprature]\nx = 1\n")
    with pytest.raises(ConfigError) as caught:
        load_settings({})
    assert caught.value.message == f"{file}:2: there is no setting 'temprature'."
    assert caught.value.hint == "Did you mean temp?"


def test_a_key_with_dashes_is_led_to_the_one_with_underscores() -> None:
    write_config("max-tokens = 5\n")
    with pytest.raises(ConfigError) as caught:
        load_settings({})
    assert caught.value.hint == "Did you mean max_tokens?"


def test_an_unknown_flag_is_refused_even_when_it_was_not_given() -> None:
    with pytest.raises(ConfigError, match="--tmep"):
        load_settings({"tmep": None})


def test_bad_toml_gets_file_line_and_column() -> None:
    file = write_config("temp = 0.7\ntop_k =\n")
    with pytest.raises(ConfigError) as caught:
        load_settings({})
    assert caught.value.message.startswith(f"{file}:2:8 is not valid TOML")


def test_escape_sequences_in_the_file_do_not_reach_the_message() -> None:
    write_config('"\\u001b[2Jevil" = 1\n')
    with pytest.raises(ConfigError) as caught:
        load_settings({})
    assert "\x1b" not in caught.value.message


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"#" * ((1 << 20) + 1)])
def test_a_file_that_is_no_text_or_too_long_is_refused(content: bytes) -> None:
    paths.config_file().write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.toml"):
        load_settings({})


def test_a_folder_in_place_of_the_file_is_refused() -> None:
    paths.config_file().mkdir()
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_settings({})


def test_settings_do_not_import_what_is_slow() -> None:
    code = "import sys, edgeapp.config; print({'tomlkit', 'click', 'huggingface_hub'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"

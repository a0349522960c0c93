from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from edgeapp import paths
from edgeapp.cli.config import command
from edgeapp.config import Settings
from edgeapp.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in os.environ:
        if name.startswith("EDGEAPP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("EDGEAPP_HOME", str(tmp_path / "home"))
    return tmp_path


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments), catch_exceptions=False)


def test_without_subcommand_every_setting_is_shown_with_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEAPP_TOP_K", "7")
    invoke("set", "temp", "0.3")
    lines = {line.split()[0]: line.split()[1:] for line in invoke().output.splitlines()}
    assert set(lines) == set(Settings.__struct_fields__)
    assert lines["temp"] == ["0.3", str(paths.config_file())]
    assert lines["top_k"] == ["7", "EDGEAPP_TOP_K"]
    assert lines["seed"] == ["-"]
    assert lines["offline"] == ["false"]


def test_show_as_json_keeps_types() -> None:
    invoke("set", "offline", "true")
    shown = json.loads(invoke("show", "--json").output)
    assert shown["offline"] == {"value": True, "source": "file"}
    assert shown["temp"] == {"value": None, "source": "default"}


def test_path_names_the_file_before_it_exists() -> None:
    assert invoke("path").output.strip() == str(paths.config_file())
    assert not paths.config_file().exists()


def test_set_keeps_comments_order_and_the_other_settings() -> None:
    paths.make_private(paths.config_file().parent)
    paths.config_file().write_text("# my machine\nctx = 4096  # enough\n\n# taste\ntemp = 0.7\n")
    invoke("set", "ctx", "8192")
    invoke("set", "system", 'say "hi"')
    assert paths.config_file().read_text() == (
        '# my machine\nctx = 8192  # enough\n\n# taste\ntemp = 0.7\nsystem = "say \\"hi\\""\n'
    )
    assert invoke("get", "system").output == 'say "hi"\n'


def test_set_writes_the_type_of_the_setting_not_a_string() -> None:
    invoke("set", "top_k", "20")
    invoke("set", "gpu", "off")
    assert paths.config_file().read_text() == 'top_k = 20\ngpu = "off"\n'


def test_set_refuses_a_bad_value_and_leaves_the_file_alone() -> None:
    invoke("set", "temp", "0.3")
    with pytest.raises(ConfigError, match="temp must be"):
        invoke("set", "temp", "-1")
    assert paths.config_file().read_text() == "temp = 0.3\n"


def test_set_refuses_an_unknown_key_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError) as caught:
        invoke("set", "temperature", "1")
    assert caught.value.hint == "Did you mean temp?"


def test_set_does_not_touch_a_file_that_is_not_toml() -> None:
    paths.make_private(paths.config_file().parent)
    paths.config_file().write_text("temp = = 1\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        invoke("set", "temp", "0.3")
    assert paths.config_file().read_text() == "temp = = 1\n"


def test_unset_brings_the_default_back_and_keeps_comments() -> None:
    paths.make_private(paths.config_file().parent)
    paths.config_file().write_text("# keep\ntemp = 0.7\nctx = 4096\n")
    invoke("unset", "temp")
    assert paths.config_file().read_text() == "# keep\nctx = 4096\n"
    assert invoke("get", "temp").output == "\n"


def test_unset_removes_a_key_that_no_version_knows() -> None:
    paths.make_private(paths.config_file().parent)
    paths.config_file().write_text("tmep = 0.7\nctx = 4096\n")
    invoke("unset", "tmep")
    assert paths.config_file().read_text() == "ctx = 4096\n"


def test_unset_of_what_is_not_set_writes_nothing() -> None:
    assert invoke("unset", "temp").exit_code == 0
    assert not paths.config_file().exists()


def test_get_of_an_unknown_key_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no setting"):
        invoke("get", "nothing")


@pytest.mark.parametrize("subcommand", ["", "show", "path", "get", "set", "unset"])
def test_every_help_shows_an_example(subcommand: str) -> None:
    output = invoke(*filter(None, [subcommand]), "--help").output
    assert "Example" in output
    assert "edgeapp config" in output
